"""Image files for tests, written by Pillow or byte by byte; a NumPy reference for resizing."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RGB = np.stack(
    [
        np.add.outer(np.arange(37) * 4, np.arange(53)) % 256,
        np.add.outer(np.arange(37), np.arange(53) * 4) % 256,
        np.multiply.outer(np.arange(37), np.arange(53)) // 8 % 256,
    ],
    axis=-1,
).astype(np.uint8)
COLOUR = Image.fromarray(RGB)
ALPHA = Image.fromarray(np.ascontiguousarray(RGB[:, :, 1]))
GREY = COLOUR.convert("L")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(mode: str) -> Image.Image:
    image = COLOUR.convert(mode[:-1])
    image.putalpha(ALPHA)
    return image


def opened(contents: bytes) -> np.ndarray:
    """int [h, w, 3]: what Pillow makes of a file."""
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)


def tiff(order: str, value: int, before: int = 0) -> bytes:
    """A TIFF block whose only directory holds `before` other entries and then the orientation."""
    mark = {"<": b"II", ">": b"MM"}[order]
    others = struct.pack(order + "HHIHH", 0x0100, 3, 1, 7, 0) * before
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, value, 0)
    head = mark + struct.pack(order + "HIH", 42, 8, before + 1)
    return head + others + entry + b"\0\0\0\0"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(bits: int, rows: list[bytes], **options) -> bytes:
    """A BMP file; options: compression, extra (behind the header), palette, top_down."""
    palette, extra = options.get("palette", b""), options.get("extra", b"")
    top_down, compression = options.get("top_down", False), options.get("compression", 0)
    ordered = rows if top_down else rows[::-1]
    data = b"".join(row + b"\0" * (-len(row) % 4) for row in ordered)
    height, width = RGB.shape[0] * (-1 if top_down else 1), RGB.shape[1]
    sizes = (width, height, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    header = struct.pack("<IiiHHIIiiII", 40, *sizes)
    offset = 14 + len(header) + len(extra) + len(palette)
    file_header = b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset)
    return file_header + header + extra + palette + data


def bgr_rows(filler: int = 0) -> list[bytes]:
    """The rows of RGB as a BMP has them, each pixel followed by `filler` zero bytes."""
    padded = np.pad(RGB[:, :, ::-1], ((0, 0), (0, 0), (0, filler)))
    return [row.tobytes() for row in padded]


def triangle(pixels: np.ndarray, axis: int, scale: float, offset: float, count: int) -> np.ndarray:
    """float64: one axis resampled with an antialiasing triangle, black beyond the image."""
    size = pixels.shape[axis]
    centres = (np.arange(count) + 0.5 - offset) / scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / max(1, 1 / scale))
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    weights[(centres < 0) | (centres > size)] = 0
    return np.moveaxis(np.tensordot(weights, np.moveaxis(pixels, axis, 0), 1), 0, axis)
