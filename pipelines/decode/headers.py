"""What the first bytes of an image say of it, before anything is decoded."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from pipelines.sources.examples import WHOLE_FILE, Examples, read

# What Pillow is let near: images as people have them, none whose reader runs other programs.
NAMES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "jpe", "jfif", "mpo"),  # a JPEG with more of them behind it
    "PNG": ("png", "apng"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "ICO": ("ico",),
    "JPEG2000": ("jp2", "j2k", "jpf", "jpx"),
    "AVIF": ("avif", "avifs"),
}


# Of many headers: a row each. format is '' where none was read, UNKNOWN where it says nothing.
COLUMN = np.dtype([("format", "S8"), ("height", "i4"), ("width", "i4"), ("frames", "i4")])
UNKNOWN = b"?"
MOST = 10_000  # headers that a run reads: 30 microseconds each, and more over a network


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `NAMES` that this Pillow can read."""
    Image.init()
    return tuple(name for name in NAMES if name in Image.OPEN)


class Header(NamedTuple):
    """Format as Pillow names it, height and width in pixels as stored, frames or pages."""

    format: str
    height: int
    width: int
    frames: int


@contextlib.contextmanager
def _unlimited() -> Iterator[None]:
    """Lets Pillow tell the size of an image, however large it claims to be; none is decoded."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def header(examples: Examples, index: int) -> Header | None:
    """What an example's header says; None where it can't be read or is of no known format."""
    try:
        with (
            _unlimited(),
            _open(examples, index) as file,
            Image.open(file, formats=_formats()) as image,
        ):
            frames = getattr(image, "n_frames", 1)
            return Header(image.format or "", image.height, image.width, frames)
    # Damaged headers fail in as many ways as Pillow has readers.
    except Exception:
        return None


def of(examples: Examples, indices: np.ndarray) -> np.ndarray:
    """COLUMN [n]: the headers of n examples."""
    rows = np.zeros(len(indices), COLUMN)
    for place, index in enumerate(indices.tolist()):
        found = header(examples, index)
        rows[place] = (found.format, *found[1:]) if found else (UNKNOWN, 0, 0, 0)
    return rows


def sample(count: int) -> np.ndarray:
    """bool [count]: the images whose headers a run reads, spread evenly where there are many."""
    return np.arange(count) % max(1, -(-count // MOST)) == 0


def are_sound(rows: np.ndarray) -> bool:
    """Whether COLUMN [n] holds what `of` gives."""
    names = np.array([b"", UNKNOWN, *(name.encode() for name in NAMES)])
    return bool(np.isin(rows["format"], names).all())


def _open(examples: Examples, index: int) -> BinaryIO:
    if examples.lengths[index] == WHOLE_FILE:
        # Without O_NONBLOCK a named pipe would wait for a writer that never comes.
        handle = os.open(examples.paths[index], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        return open(handle, "rb")
    return io.BytesIO(read(examples, index))


def misnamed(path: str, format: str) -> str | None:
    """`named .png, holds JPEG`, or None where the name fits or says nothing."""
    suffix = os.path.splitext(path)[1][1:].lower()
    known = {name for names in NAMES.values() for name in names}
    if suffix not in known or suffix in NAMES.get(format, (suffix,)):
        return None
    return f"named .{suffix}, holds {format}"
