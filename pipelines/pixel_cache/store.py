"""Decoded images, ready to be taken: in memory, or in a file that the system pages in and out.

The file is read, and not looked at through a map: the bytes come out of the same pages of the
system's, but this process's own memory stays flat without giving pages back after every batch,
which takes as long again, and a file that was cut short is an error and not a SIGBUS.
"""

from __future__ import annotations

import dataclasses
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.pixel_cache.free_memory import free_memory

ALIGNMENT = 64  # bytes: TensorFlow takes such an array as it is, and copies any other


@dataclasses.dataclass(frozen=True)
class CacheLocation:
    """Where pixels may be kept.

    folder: on the disk, for later runs and for what memory can't hold; None for nowhere.
    memory: bytes that they may take in this process.
    give_way: called often by the thread that writes for later runs; waits while others come first,
      and raises InterruptedError where that is to be left undone.
    """

    folder: Path | None
    memory: int
    give_way: Callable[[], None] = lambda: None


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/unfreeze`, or `~/.cache/unfreeze` (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "unfreeze"


def default_memory() -> int:
    """A third of the bytes that this process can still have: the rest is the training's."""
    return free_memory() // 3


class Pixels:
    """N decoded images of one size, in rows, and what the first look found of each.

    fingerprints: int64 [N], of the encoded bytes: equal where two files hold the same.
    orientations: uint8 [N], as EXIF had it, 1…8; the pixels are upright already. 0 for broken ones.
    headers: headers.COLUMN [N], blank where none was read.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        fingerprints: np.ndarray,
        orientations: np.ndarray,
        headers: np.ndarray,
        *,
        memory: np.ndarray | None = None,
        file: io.FileIO | None = None,
        lock: io.FileIO | None = None,
    ) -> None:
        """Of `memory`, uint8 [N, *shape], or of a `file` with such rows, held by `lock`."""
        self.shape = (len(fingerprints), *shape)
        self.fingerprints, self.orientations, self.headers = fingerprints, orientations, headers
        self._memory = memory
        self.saving: threading.Thread | None = None
        if file:
            self.move_to(file, lock)

    @property
    def in_memory(self) -> bool:
        return self._memory is not None

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def rows(self) -> np.ndarray:
        """uint8 [N, height, width, 3], 0…255: the images themselves, or a map of their file."""
        if self._memory is not None:
            return self._memory
        return np.memmap(self._file, np.uint8, "r", shape=self.shape)

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The images in some rows, each batch in memory of its own.

        Args:
          numbers: int [n], each 0 to N - 1, in any order.

        Returns:
          uint8 [n, height, width, 3], 0…255, at an address that TensorFlow needs no copy of.

        Raises:
          IndexError: there is no such row.
          OSError: the file can't be read, or ends too early.
        """
        numbers = np.asarray(numbers, dtype=np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self.fingerprints):
            raise IndexError(f"a row lies outside 0 to {len(self.fingerprints) - 1}")
        images = _aligned((len(numbers), *self.shape[1:]))
        if self._memory is not None:
            # Other threads go on meanwhile. With mode="raise" NumPy would fill a buffer first.
            np.take(self._memory, numbers, axis=0, out=images, mode="clip")
        else:
            _read(self._file, numbers, images)
        return images

    def move_to(self, file: io.FileIO, lock: io.FileIO | None) -> None:
        """Reads from a file with the same rows from now on; a thread that reads one finishes it."""
        # Rows are read whole and in any order: nothing beyond them is to be read ahead.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._file, self._lock = file, lock

    def wait(self) -> None:
        """Until what is written for later runs is written, or has failed."""
        if self.saving:
            self.saving.join()


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].reshape(shape)


def _read(file: io.FileIO, numbers: np.ndarray, images: np.ndarray) -> None:
    handle, rows = file.fileno(), numbers.tolist()
    room = images.reshape(-1).data
    size = images[:1].size
    for row in rows:  # all are asked for before the first is waited for
        os.posix_fadvise(handle, row * size, size, os.POSIX_FADV_WILLNEED)
    for place, row in enumerate(rows):
        done = 0
        while done < size:
            start = place * size + done
            got = os.preadv(handle, [room[start : start + size - done]], row * size + done)
            if not got:
                raise OSError(f"the pixel file ends inside row {row}")
            done += got
