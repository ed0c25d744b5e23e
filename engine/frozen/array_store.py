"""Large arrays: in memory where they fit, else in a file that is mapped into memory.

A mapped file is unlinked at once, so it disappears with the process, however that ends. Its space
is reserved before use: writing into a hole of a full disk would end the process.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

ALIGNMENT = 64  # bytes


@dataclasses.dataclass(frozen=True)
class CacheBudget:
    """Where arrays may be stored: in so many bytes of memory, then in files in a folder."""

    memory: int
    folder: Path | None = None

    def place(self, size: int) -> str | None:
        """`memory`, `disk` (half of its free space), or None where `size` bytes fit in neither."""
        if size <= self.memory:
            return "memory"
        if self.folder is None:
            return None
        try:  # the folder itself may not exist yet
            existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            free = shutil.disk_usage(existing).free
        except (OSError, StopIteration):
            return None
        return "disk" if size <= free // 2 else None


class ArrayStore:
    """Rows [slots, count, …] of numbers, in memory or in a mapped file."""

    def __init__(self, rows: np.ndarray, mapping: mmap.mmap | None = None) -> None:
        self.rows, self.mapping = rows, mapping

    def put(self, slot: int, start: int, values: np.ndarray) -> None:
        """Writes the rows from `start` of one slot."""
        self.rows[slot, start : start + len(values)] = values.view(self.rows.dtype)
        self._release_pages()

    def take(self, slots: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Rows at (slot, index), int [n] each -> [n, …]."""
        flat = self.rows.reshape(-1, *self.rows.shape[2:])
        taken = _empty_aligned((len(slots), *flat.shape[1:]), flat.dtype)
        # With mode="raise" NumPy would fill a buffer of its own first.
        np.take(flat, slots * self.rows.shape[1] + indices, axis=0, out=taken, mode="clip")
        self._release_pages()
        return taken

    def _release_pages(self) -> None:
        """The pages just touched need not stay: the system keeps those it has room for."""
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_DONTNEED)


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array at an address that TensorFlow uses without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def storage_dtype(dtype: str) -> np.dtype:
    """The unsigned integer of the same width: NumPy's loops for bfloat16 are slow."""
    return np.dtype(f"uint{8 * tf.as_dtype(dtype).size}")


def allocate(
    shapes: Iterable[tuple[tuple[int, ...], np.dtype]], budget: CacheBudget
) -> list[ArrayStore]:
    """Arrays of these shapes and types, uninitialised; the first ones get the memory.

    Raises:
      OSError: one fits neither in memory nor on the disk.
    """
    stores, memory = [], budget.memory
    for shape, dtype in shapes:
        size = math.prod(shape) * dtype.itemsize
        if size <= memory:
            memory -= size
            stores.append(ArrayStore(np.empty(shape, dtype)))
        elif budget.folder is None:
            raise OSError(f"{size} bytes do not fit in the {memory} that are left in memory")
        else:
            stores.append(_map_file(shape, dtype, budget.folder))
    return stores


def _map_file(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> ArrayStore:
    size = math.prod(shape) * dtype.itemsize
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        mapping = mmap.mmap(file.fileno(), size)
    mapping.madvise(mmap.MADV_RANDOM)
    return ArrayStore(np.frombuffer(mapping, dtype).reshape(shape), mapping)
