"""Files that are no good images, made by program: every kind in several variants.

`KINDS` makes bytes that must be refused, `ODD` such as may be read or refused; `lay_out` writes
them, with places that no file can be read from, and says which is which.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.pipelines import encoded_images
from tests.pipelines.encoded_images import COLOUR, GREY, bgr_rows, bmp, chunk, saved

VARIANTS = 4
MUTANTS = 120
Maker = Callable[[np.random.Generator], bytes]


def noisy(random: np.random.Generator) -> Image.Image:
    """An image whose file is long enough to be cut anywhere."""
    height, width = random.integers(40, 80, 2)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))


def cut(kind: str, **options) -> Maker:
    def make(random):
        contents = saved(noisy(random), kind, **options)
        return contents[: int(random.integers(30, len(contents) * 9 // 10))]

    return make


def begins(start: bytes) -> Maker:
    return lambda random: start + random.bytes(int(random.integers(0, 3000)))


def jpeg_without(marker: int) -> Maker:
    """Without the segments of that marker."""

    def make(random):
        contents, at = saved(noisy(random), "JPEG"), 2
        kept = contents[:2]
        while contents[at + 1] != 0xDA:
            after = at + 2 + int.from_bytes(contents[at + 2 : at + 4], "big")
            kept += b"" if contents[at + 1] == marker else contents[at:after]
            at = after
        return kept + contents[at:]

    return make


def jpeg_bad_huffman(random):
    """A code table that has more codes than there can be."""
    contents = saved(noisy(random), "JPEG")
    at = contents.index(b"\xff\xc4") + 5
    return contents[:at] + b"\xff" * 16 + contents[at + 16 :]


def jpeg_frame(height: int, width: int, marker: int = 0xC0) -> Maker:
    """A JPEG whose frame header claims another size, or another process."""

    def make(random):
        contents = saved(noisy(random), "JPEG")
        at = contents.index(b"\xff\xc0")
        frame = struct.pack(">BBHBHH", 0xFF, marker, 17, 8, height, width)
        return contents[:at] + frame + contents[at + 9 :]

    return make


def png_claims(width: int, height: int) -> Maker:
    return lambda random: encoded_images.png(width, height, 8, 2, random.bytes(100))


def png_bomb(random):
    """Few bytes that become 400 million pixels."""
    side = 20_000
    packed = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join([packed.compress(row * 500) for _ in range(side // 500)]) + packed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_damaged(random):
    contents = bytearray(saved(noisy(random), "PNG"))
    at = contents.index(b"IDAT") + 10
    contents[at : at + 40] = random.bytes(40)
    return bytes(contents)


def webp_claims(width: int, height: int) -> Maker:
    body = struct.pack("<B3x", 0) + struct.pack("<I", width - 1)[:3]
    body += struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + body
    whole = b"WEBP" + extended + b"VP8 " + struct.pack("<I", 10) + bytes(10)
    return lambda random: b"RIFF" + struct.pack("<I", len(whole)) + whole


def gif_claims(width: int, height: int) -> Maker:
    def make(random):
        contents = saved(noisy(random).quantize(16), "GIF")
        return contents[:6] + struct.pack("<HH", width, height) + contents[10:]

    return make


def bmp_claims(width: int, height: int) -> Maker:
    def make(random):
        contents = bmp(24, bgr_rows())
        return contents[:18] + struct.pack("<ii", width, height) + contents[26:]

    return make


KINDS: dict[str, Maker] = {
    "empty": lambda random: b"",
    "zeros": lambda random: bytes(int(random.integers(1, 9000))),
    "noise": lambda random: b"\1" + random.bytes(int(random.integers(1, 9000))),
    "text": lambda random: b"not an image at all\n" * int(random.integers(1, 50)),
    "web_page": begins(b"<!DOCTYPE html><html><body>404 Not Found"),
    "svg": begins(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pdf": begins(b"%PDF-1.7\n"),
    "zip": begins(b"PK\x03\x04"),
    "program": begins(b"\x7fELF\x02\x01\x01"),
    "photoshop": begins(b"8BPS\0\1"),
    "heic": begins(b"\0\0\0\x18ftypheic\0\0\0\0"),
    "tiff": lambda random: saved(noisy(random), "TIFF"),
    "icon": lambda random: saved(noisy(random), "ICO"),
    "pixmap": lambda random: saved(noisy(random), "PPM"),
    "jpeg_mark_alone": begins(b"\xff\xd8\xff\xd9"),
    "jpeg_cut": cut("JPEG"),
    "jpeg_progressive_cut": cut("JPEG", progressive=True),
    "jpeg_bad_huffman": jpeg_bad_huffman,
    "jpeg_no_quantisation": jpeg_without(0xDB),
    "jpeg_no_frame": jpeg_without(0xC0),
    "jpeg_no_pixels": jpeg_frame(0, 40),
    "jpeg_claims_much": jpeg_frame(60_000, 60_000),
    "jpeg_arithmetic_lossless": jpeg_frame(40, 40, 0xCB),
    "png_cut": cut("PNG"),
    "png_damaged": png_damaged,
    "png_no_pixels": png_claims(0, 10),
    "png_claims_much": png_claims(2**31 - 1, 2**31 - 1),
    "png_bomb": png_bomb,
    "png_mark_alone": lambda random: b"\x89PNG\r\n\x1a\n",
    "gif_cut": lambda random: saved(noisy(random).quantize(64), "GIF")[:200],
    "gif_claims_much": gif_claims(65_535, 65_535),
    "gif_not_filled": gif_claims(900, 700),
    "gif_mark_alone": lambda random: b"GIF89a",
    "webp_cut": cut("WEBP"),
    "webp_lossless_cut": cut("WEBP", lossless=True),
    "webp_claims_much": webp_claims(16_384, 16_384),
    "webp_mark_alone": begins(b"RIFF\x10\0\0\0WEBPVP8 "),
    "bmp_cut": cut("BMP"),
    "bmp_one_bit": lambda random: saved(GREY.convert("1"), "BMP"),
    "bmp_palette": lambda random: saved(COLOUR.quantize(64), "BMP"),
    "bmp_compressed": lambda random: bmp(8, [bytes(53)] * 37, compression=1),
    "bmp_claims_much": bmp_claims(1 << 20, 1 << 20),
    "bmp_backwards": bmp_claims(-53, 37),
    "bmp_mark_alone": lambda random: b"BM",
}


def _mutant(random: np.random.Generator) -> bytes:
    """A good file with some bytes changed, cut out, doubled or put in."""
    number = int(random.integers(7))
    kind = ("JPEG", "JPEG", "PNG", "GIF", "WEBP", "WEBP", "BMP")[number]
    options = {1: {"progressive": True}, 5: {"lossless": True}}.get(number, {})
    image = noisy(random)
    contents = bytearray(saved(image.quantize(64) if kind == "GIF" else image, kind, **options))
    for _ in range(int(random.integers(1, 8))):
        # Headers are short and mean much.
        at = int(random.integers(0, random.choice([64, len(contents)])))
        size = int(random.integers(1, 40))
        old = contents[at : at + size]
        change = [old[::-1], b"", old * 2, random.bytes(size), b"\xff" * size, bytes(size)]
        contents[at : at + size] = change[random.integers(len(change))]
    return bytes(contents)


ODD: dict[str, Maker] = {
    "jpeg_and_more": lambda random: saved(noisy(random), "JPEG") + random.bytes(500),
    "jpeg_odd_exif": lambda random: saved(
        noisy(random), "JPEG", exif=b"Exif\0\0" + random.bytes(99)
    ),
    "animated": lambda random: saved(
        COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180), COLOUR]
    ),
    "one_pixel": lambda random: saved(COLOUR.resize((1, 1)), "PNG"),
    "thread": lambda random: saved(COLOUR.resize((3000, 1)), "PNG"),
    "one_colour": lambda random: saved(Image.new("RGB", (50, 40), (9, 99, 9)), "JPEG"),
}


@dataclasses.dataclass(frozen=True)
class Laid:
    """What was written: paths of those that must be refused, and of those that may be."""

    bad: tuple[Path, ...]
    odd: tuple[Path, ...]


def lay_out(folder: Path) -> Laid:
    """Writes all of them into a folder, under names that are as bad."""
    folder.mkdir(parents=True, exist_ok=True)
    bad, odd = [], []
    for number, (name, make) in enumerate((KINDS | ODD).items()):
        for variant in range(VARIANTS):
            random = np.random.default_rng((number, variant))
            suffix = (".jpg", ".png", ".jpe", ".JPEG")[variant % 4]
            path = folder / f"{name} {variant}{suffix}"
            path.write_bytes(make(random))
            (bad if name in KINDS else odd).append(path)
    for number in range(MUTANTS):
        path = folder / f"mutant {number}.jpg"
        path.write_bytes(_mutant(np.random.default_rng((1 << 20, number))))
        odd.append(path)
    return Laid(tuple(bad + _no_files(folder) + _odd_names(folder)), tuple(odd))


def _no_files(folder: Path) -> list[Path]:
    """What stands in a folder like a file, and can't be read as one."""
    links = {"nowhere.jpg": "gone.jpg", "itself.jpg": "itself.jpg", "zeros.jpg": "/dev/zero"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    closed = folder / "closed.jpg"
    closed.write_bytes(b"" if os.geteuid() == 0 else saved(COLOUR, "JPEG"))  # root may read all
    closed.chmod(0)
    return [folder / "nowhere.jpg", folder / "itself.jpg", closed]


def _odd_names(folder: Path) -> list[Path]:
    names = (b"\xff\xfe.jpg", b"two\nlines.jpg", b"-rf.png", b"%s%n{}.jpg", b"=1+1.jpg")
    names += ("🐈" * 50 + ".jpg").encode(), b"a'b\"c;`id`$(id).jpg", b"<script>.png"
    names += (b"x" * 251 + b".jpg",)
    paths = [Path(os.fsdecode(os.path.join(os.fsencode(folder), name))) for name in names]
    for path in paths:
        path.write_bytes(b"bad\n")
    return paths
