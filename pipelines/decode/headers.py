"""Reads image headers by Pillow without decoding."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipelines.sources.examples import WHOLE_FILE, Examples, open_regular, read

# Formats that Pillow may read: common ones, none whose reader runs other programs.
NAMES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "jpe", "jfif", "mpo"),  # a JPEG with further ones behind it
    "PNG": ("png", "apng"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "ICO": ("ico",),
    "JPEG2000": ("jp2", "j2k", "jpf", "jpx"),
    "AVIF": ("avif", "avifs"),
}


# A row for each header: format in Pillow's name, '' where none was read, UNKNOWN where it is not
# recognised; stored height and width in pixels; number of frames or pages.
COLUMN = np.dtype([("format", "S8"), ("height", "i4"), ("width", "i4"), ("frames", "i4")])
UNKNOWN = "?"
MAX_READ = 10_000  # headers that a run reads: 30 microseconds each, and more over a network


@functools.cache
def _formats() -> tuple[str, ...]:
    """Returns the formats of `NAMES` that this Pillow can read."""
    Image.init()
    return tuple(name for name in NAMES if name in Image.OPEN)


@contextlib.contextmanager
def _unlimited() -> Iterator[None]:
    """Lets Pillow return the size of an image of any claimed size."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_headers(examples: Examples, indices: np.ndarray) -> np.ndarray:
    """Reads the headers of n examples, COLUMN [n]."""
    rows = np.zeros(len(indices), COLUMN)
    for place, index in enumerate(indices.tolist()):
        try:
            rows[place] = _read_header(examples, index)
        # Damaged headers fail in many ways.
        except Exception:
            rows[place] = (UNKNOWN, 0, 0, 0)
    return rows


def _read_header(examples: Examples, index: int) -> tuple[str, int, int, int]:
    with (
        _unlimited(),
        _open(examples, index) as file,
        Image.open(file, formats=_formats()) as image,
    ):
        return image.format or "", image.height, image.width, getattr(image, "n_frames", 1)


def sample_mask(count: int) -> np.ndarray:
    """Returns bool [count]: the images whose headers a run reads, spread evenly."""
    return np.arange(count) % max(1, -(-count // MAX_READ)) == 0


def are_valid(rows: np.ndarray) -> bool:
    """Whether COLUMN [n] is a result of `read_headers`."""
    names = np.array(["", UNKNOWN, *NAMES], COLUMN["format"])
    return bool(np.isin(rows["format"], names).all())


def _open(examples: Examples, index: int) -> BinaryIO:
    whole = examples.lengths[index] == WHOLE_FILE
    return open_regular(examples.paths[index]) if whole else io.BytesIO(read(examples, index))


def misnamed(path: str, format: str) -> str | None:
    """Returns `named .png, contains JPEG`, or None where the name fits or is of no format."""
    suffix = os.path.splitext(path)[1][1:].lower()
    known = {name for names in NAMES.values() for name in names}
    if suffix not in known or suffix in NAMES.get(format, (suffix,)):
        return None
    return f"named .{suffix}, contains {format}"
