"""An image in every kind of file that is read, and sizes that are odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pipelines.encoded_images import png, saved, tiff

# Height and width: threads, near and far from whole multiples, JPEG that is shrunk as it is read.
SIZES = (
    *((1, 1), (1, 500), (500, 1), (2, 2), (3, 7), (31, 32), (33, 32), (32, 32)),
    *((64, 80), (223, 225), (37, 1000), (1000, 37), (300, 350)),
)


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Two colours that run into each other, and noise."""
    random = np.random.default_rng(seed)
    ends = random.uniform(0, 255, (2, 3))
    slope = np.linspace(0, 1, size[0])[:, None, None] * np.linspace(0, 1, size[1])[:, None]
    levels = ends[0] + (ends[1] - ends[0]) * slope + random.uniform(-40, 40, (*size, 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def turned(orientation: int) -> bytes:
    return b"Exif\0\0" + tiff("<", orientation)


def _alpha(image: Image.Image, mode: str = "RGBA") -> Image.Image:
    whole = image.convert(mode[:-1])
    whole.putalpha(image.getchannel(1))
    return whole


def _deep_grey(image: Image.Image) -> bytes:
    levels = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(levels), "PNG")


def _deep(image: Image.Image) -> bytes:
    rows = (np.asarray(image).astype(np.uint16) * 201).astype(">u2")
    return png(*image.size, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))


KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "baseline.jpg": lambda p: saved(p, "JPEG"),
    "full.jpg": lambda p: saved(p, "JPEG", subsampling=0, quality=95),
    "progressive.jpg": lambda p: saved(p, "JPEG", progressive=True),
    "grey.jpg": lambda p: saved(p.convert("L"), "JPEG"),
    "cmyk.jpg": lambda p: saved(p.convert("CMYK"), "JPEG"),
    "upside_down.jpg": lambda p: saved(p, "JPEG", exif=turned(3)),
    "turned.jpg": lambda p: saved(p, "JPEG", exif=turned(6)),
    "plain.png": lambda p: saved(p, "PNG"),
    "alpha.png": lambda p: saved(_alpha(p), "PNG"),
    "grey.png": lambda p: saved(p.convert("L"), "PNG"),
    "grey_alpha.png": lambda p: saved(_alpha(p, "LA"), "PNG"),
    "palette.png": lambda p: saved(p.quantize(64), "PNG"),
    "palette_4_bits.png": lambda p: saved(p.quantize(8), "PNG", bits=4),
    "palette_transparent.png": lambda p: saved(p.quantize(64), "PNG", transparency=0),
    "1_bit.png": lambda p: saved(p.convert("1"), "PNG"),
    "16_bits.png": _deep,
    "16_bits_grey.png": _deep_grey,
    "turned.png": lambda p: saved(p, "PNG", exif=turned(8)),
    "plain.bmp": lambda p: saved(p, "BMP"),
    "alpha.bmp": lambda p: saved(_alpha(p), "BMP"),
    "grey.bmp": lambda p: saved(p.convert("L"), "BMP"),
    "palette.gif": lambda p: saved(p.quantize(64), "GIF"),
    "animated.gif": lambda p: saved(
        p.quantize(64), "GIF", save_all=True, append_images=[p.convert("L").convert("P")]
    ),
    "lossy.webp": lambda p: saved(p, "WEBP"),
    "lossless.webp": lambda p: saved(p, "WEBP", lossless=True),
    "alpha.webp": lambda p: saved(_alpha(p), "WEBP"),
    "mirrored.webp": lambda p: saved(p, "WEBP", exif=turned(5), lossless=True),
}


def write(folder: Path, kind: str, size: tuple[int, int], seed: int) -> Path:
    """A file such as `500x1_grey.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{size[0]}x{size[1]}_{kind}"
    path.write_bytes(KINDS[kind](noise(size, seed)))
    return path
