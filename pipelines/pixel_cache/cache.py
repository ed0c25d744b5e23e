"""Decoded images, in memory or in a file on the disk.

The file is read with `preadv`, not mapped: the bytes come from the same page cache, but this
process's own memory stays flat without returning pages after every batch, which takes as long
again, and a file that was cut short is an error, not a SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.core.errors import UserError
from engine.core.locks import FileLock
from pipelines.pixel_cache.index import CacheIndex

PIXELS, INDEX = "pixels.u8", "index.npz"  # the files of a cache
ALIGNMENT = 64  # bytes; TensorFlow takes such an array without a copy
_MADV_POPULATE_WRITE = 23  # of Linux 5.14 and later
_POPULATED_BYTES = 1 << 22  # at a time


@dataclasses.dataclass(frozen=True)
class CacheLocation:
    """Where pixels may be cached.

    Attributes:
      folder: on the disk, for later runs and for what does not fit in memory; None for nowhere.
      memory: bytes that they may take in this process.
      give_way: called often by the thread that writes for later runs; waits while more urgent work
        is pending, and raises InterruptedError to cancel the writing.
    """

    folder: Path | None
    memory: int
    give_way: Callable[[], None] = lambda: None


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/unfreeze`, or `~/.cache/unfreeze` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "unfreeze"


NOWHERE = CacheLocation(None, 0)


class PixelFile(FileLock):
    """A file of pixels and the lock on it; closed when nothing refers to it any more."""

    descriptor = -1

    def close(self) -> None:
        if self.descriptor >= 0:
            super().close()
        self.descriptor = -1

    __del__ = close


def checksums(images: np.ndarray) -> np.ndarray:
    """Returns a checksum of each image, uint8 [n, ...] -> uint64 [n].

    A sum of the 8-byte words, each times an odd number of its own, modulo 2**64: no flipped bit
    leaves it as it was, and it takes a seventh of a CRC's time (11 µs for 224 x 224 pixels).
    """
    rows = images.reshape(len(images), math.prod(images.shape[1:]))
    if rows.shape[1] % 8:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    words = rows.view(np.uint64)
    return words @ _checksum_factors(words.shape[1])


@functools.lru_cache(2)
def _checksum_factors(count: int) -> np.ndarray:
    # Multiples of the golden ratio, which differ in all their bits.
    return np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)


class PixelCache:
    """N decoded images of one size, a row each.

    Attributes:
      shape: (N, height, width, 3).
      index: what is known of each row.
      memory: uint8 [N, height, width, 3], 0 to 255, or None where they are read from `file`.
      saving: the thread that writes for later runs, or None.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        index: CacheIndex,
        *,
        memory: np.ndarray | None = None,
        file: PixelFile | None = None,
    ) -> None:
        """Reads from `memory`, or from a file of such rows."""
        self.shape, self.index, self.memory = (len(index), *shape), index, memory
        self.saving: threading.Thread | None = None
        self.file = file
        if file:
            # Rows are read whole and in any order, so nothing beyond them is to be read ahead.
            os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @property
    def in_memory(self) -> bool:
        return self.memory is not None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies some rows into new memory, as `take_checked`.

        Raises:
          UserError: a row is damaged; the next run decodes the images again.
        """
        images, intact = self.take_checked(rows)
        if self.file and not intact.all():
            path = self.file.path
            with contextlib.suppress(OSError):
                path.with_name(INDEX).unlink()
            raise UserError(
                f"{path}: {np.count_nonzero(~intact)} images are damaged; run the same command "
                "again, which decodes all images again"
            )
        return images

    def take_checked(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies some rows into new memory, and tells which are as they were written.

        Args:
          rows: int [n], each 0 to N - 1, in any order.

        Returns:
          uint8 [n, height, width, 3], 0 to 255, at an address that TensorFlow needs no copy of;
          bool [n], whether a row has its checksum.

        Raises:
          IndexError: there is no such row.
          OSError: the file can't be read, or ends too early.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.index):
            raise IndexError(f"a row lies outside 0 to {len(self.index) - 1}")
        images = _aligned((len(rows), *self.shape[1:]))
        if self.memory is not None:
            # Releases the GIL. With mode="raise" NumPy would fill a buffer first.
            np.take(self.memory, rows, axis=0, out=images, mode="clip")
        elif self.file:
            _read(self.file.descriptor, rows, images)
            return images, checksums(images) == self.index.facts["checksum"][rows]
        return images, np.ones(len(rows), bool)

    def wait(self) -> None:
        """Waits until the writing for later runs has ended or failed."""
        if self.saving:
            self.saving.join()


def prefaulted(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a new array, uint8 of any values, whose pages a thread requests from the system.

    The system clears a page when it is first written to; in a virtual machine that can take as long
    as decoding the image that goes there (1 s for the first pass over cats and dogs). A processor
    that would be idle while the decoding program is built does it here. An older Linux refuses, and
    clears each page later.
    """
    # NumPy requests large pages for `empty`, not for `zeros`: filled in a fraction of the time.
    array = np.empty(shape, np.uint8)
    threading.Thread(target=_populate, args=[array], name="prefault", daemon=True).start()
    return array


def _populate(array: np.ndarray) -> None:
    """Has the array's pages cleared; their contents stay, so they may be written meanwhile."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    end = array.ctypes.data + array.nbytes
    first_page = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    # In chunks, since other threads can't allocate memory during a call.
    for start in range(first_page, end, _POPULATED_BYTES):
        madvise(start, min(_POPULATED_BYTES, end - start), _MADV_POPULATE_WRITE)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].reshape(shape)


def _read(descriptor: int, rows: np.ndarray, images: np.ndarray) -> None:
    numbers = rows.tolist()
    buffer, size = images.reshape(-1).data, images[:1].size
    for row in numbers:  # requests all of them before waiting for the first
        os.posix_fadvise(descriptor, row * size, size, os.POSIX_FADV_WILLNEED)
    for position, row in enumerate(numbers):
        done = 0
        while done < size:
            start = position * size + done
            count = os.preadv(descriptor, [buffer[start : start + size - done]], row * size + done)
            if not count:
                raise OSError(f"the pixel file ends inside row {row}")
            done += count
