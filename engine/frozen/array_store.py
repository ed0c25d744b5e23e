"""Large tables: in memory where they fit, else in a file that is mapped into memory.

A mapped file has no name, so it is gone with the process, however that ends. Its space is reserved
before it is used: to write into a hole of a full disk would end the process.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

ALIGNMENT = 64  # bytes


@dataclasses.dataclass
class CacheBudget:
    """Where tables may be put: so many bytes of memory, which grow less, then files in a folder."""

    memory: int
    folder: Path | None = None

    def fits(self, count: int) -> str | None:
        """`memory`, `disk` (half of what is free there), or None where there is no room."""
        if count <= self.memory:
            return "memory"
        if self.folder is None:
            return None
        try:  # the folder itself may be yet to be made
            place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            free = shutil.disk_usage(place).free
        except (OSError, StopIteration):
            return None
        return "disk" if count <= free // 2 else None


@dataclasses.dataclass(frozen=True)
class ArrayStore:
    """Rows [slots, count, …] of numbers."""

    rows: np.ndarray
    mapping: mmap.mmap | None = None

    def put(self, slot: int, place: int, values: np.ndarray) -> None:
        self.rows[slot, place : place + len(values)] = values.view(self.rows.dtype)
        self._give_back()

    def take(self, slots: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Rows at (slot, place), int [n] each -> [n, …]."""
        flat = self.rows.reshape(-1, *self.rows.shape[2:])
        taken = _aligned((len(slots), *flat.shape[1:]), flat.dtype)
        # With mode="raise" NumPy would fill a buffer of its own first.
        np.take(flat, slots * self.rows.shape[1] + places, axis=0, out=taken, mode="clip")
        self._give_back()
        return taken

    def _give_back(self) -> None:
        """Pages that were touched need not stay: the system keeps those it has room for."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that TensorFlow needs no copy of."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def plain(dtype: str) -> np.dtype:
    """A type of NumPy's own of the same width: its loops for others are slow."""
    return np.dtype(f"uint{8 * width(dtype)}")


def width(dtype: str) -> int:
    """Bytes of one number."""
    return {"float32": 4, "bfloat16": 2, "float16": 2}[dtype]


def table(shape: tuple[int, ...], dtype: np.dtype, cache_budget: CacheBudget) -> ArrayStore:
    """A table of that shape, its contents anything; its memory is taken from the room.

    Raises:
      OSError: it fits neither in memory nor on the disk.
    """
    count = math.prod(shape) * dtype.itemsize
    if count <= cache_budget.memory:
        cache_budget.memory -= count
        return ArrayStore(np.empty(shape, dtype))
    if cache_budget.folder is None:
        raise OSError(
            f"{count} bytes do not fit in the {cache_budget.memory} that are left in memory"
        )
    cache_budget.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_budget.folder) as file:
        os.posix_fallocate(file.fileno(), 0, count)
        mapping = mmap.mmap(file.fileno(), count)
    mapping.madvise(mmap.MADV_RANDOM)
    return ArrayStore(np.frombuffer(mapping, dtype).reshape(shape), mapping)
