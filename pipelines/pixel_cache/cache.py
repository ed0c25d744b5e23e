"""Decoded images, in memory or in a file on the disk.

The file is read with `preadv`, not mapped: the bytes come from the same page cache, but this
process's own memory stays flat without returning pages after every batch, which takes as long
again, and a file that was cut short is an error, not a SIGBUS.
"""

from __future__ import annotations

import dataclasses
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.core.locks import FileLock
from pipelines.pixel_cache.index import CacheIndex

ALIGNMENT = 64  # bytes; TensorFlow takes such an array without a copy


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


class PixelCache:
    """N decoded images of one size, a row each.

    Attributes:
      shape: (N, height, width, 3).
      index: what is known of each row.
      saving: the thread that writes for later runs, or None.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        index: CacheIndex,
        *,
        memory: np.ndarray | None = None,
        file: io.FileIO | None = None,
        lock: FileLock | None = None,
    ) -> None:
        """Reads from `memory`, uint8 [N, *shape], or from a `file` of such rows held by `lock`."""
        self.shape, self.index = (len(index), *shape), index
        self._memory = memory
        self.saving: threading.Thread | None = None
        if file:
            self._read_from(file, lock)

    @property
    def in_memory(self) -> bool:
        return self._memory is not None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def images(self) -> np.ndarray:
        """uint8 [N, height, width, 3], 0 to 255: the array in memory, or a map of the file."""
        if self._memory is not None:
            return self._memory
        return np.memmap(self._file, np.uint8, "r", shape=self.shape)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies some rows into new memory.

        Args:
          rows: int [n], each 0 to N - 1, in any order.

        Returns:
          uint8 [n, height, width, 3], 0 to 255, at an address that TensorFlow needs no copy of.

        Raises:
          IndexError: there is no such row.
          OSError: the file can't be read, or ends too early.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.index):
            raise IndexError(f"a row lies outside 0 to {len(self.index) - 1}")
        images = _aligned((len(rows), *self.shape[1:]))
        if self._memory is not None:
            # Releases the GIL. With mode="raise" NumPy would fill a buffer first.
            np.take(self._memory, rows, axis=0, out=images, mode="clip")
        else:
            _read(self._file, rows, images)
        return images

    def switch_to(self, other: PixelCache) -> None:
        """Reads another cache's file with the same rows; a thread reading the old one finishes."""
        self._read_from(other._file, other._lock)

    def wait(self) -> None:
        """Waits until the writing for later runs has ended or failed."""
        if self.saving:
            self.saving.join()

    def close(self) -> None:
        """Releases the file, which may then be removed."""
        self._file.close()
        if self._lock:
            self._lock.close()

    def _read_from(self, file: io.FileIO, lock: FileLock | None) -> None:
        # Rows are read whole and in any order, so nothing beyond them is to be read ahead.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._file, self._lock = file, lock


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].reshape(shape)


def _read(file: io.FileIO, rows: np.ndarray, images: np.ndarray) -> None:
    descriptor, numbers = file.fileno(), rows.tolist()
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
