"""Finds files with the same bytes, reading no more of them than necessary."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SAMPLE_BYTES = 4096
_CHUNK = 256
_READERS = 16  # threads; they wait for the disk, not for a core


def first_of_same_content(paths: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    """Returns for every file the index of the first one with the same content, or its own.

    Sizes are compared first, then 4 KiB from the middle, then hashes of the whole, each only for
    files that are equal so far. Links to one file have the same content. Empty and unreadable files
    are equal to no other.

    Args:
      paths: str [N].
      apart: int [N]; only duplicates that differ in it are needed: others may be missed.

    Returns:
      int64 [N].
    """
    classes = np.zeros(len(paths), dtype=np.int64)
    candidates = np.arange(len(paths))
    with ThreadPoolExecutor(_READERS) as pool:
        for feature in (_size, _sample, _digest):
            classes[candidates] = _refine(candidates, classes, paths, feature, pool)
            candidates = candidates[
                _shared(classes[candidates], None if apart is None else apart[candidates])
            ]
    first = np.arange(len(paths))
    _, begin, inverse = np.unique(classes[candidates], return_index=True, return_inverse=True)
    first[candidates] = candidates[begin][inverse.reshape(-1)]
    return first


def _refine(
    indices: np.ndarray,
    classes: np.ndarray,
    paths: np.ndarray,
    feature: Callable[[str], Hashable | None],
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Returns numbers that are equal where the classes so far and the feature are equal."""
    numbers: dict[Hashable, int] = {}
    refined = np.empty(len(indices), dtype=np.int64)
    # A task for each file would cost more than what it does.
    chunks = np.array_split(paths[indices], max(1, len(indices) // _CHUNK))
    values = itertools.chain.from_iterable(
        pool.map(lambda chunk: [feature(path) for path in chunk], chunks)
    )
    for place, (index, value) in enumerate(zip(indices, values, strict=True)):
        alone = ("alone", int(index))
        key = alone if value is None else (int(classes[index]), value)
        refined[place] = numbers.setdefault(key, len(numbers))
    return refined


def _shared(classes: np.ndarray, apart: np.ndarray | None) -> np.ndarray:
    """Returns bool [n]: the class has several members, on both sides of `apart` if given."""
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if apart is None or not len(classes):
        return counts[inverse.reshape(-1)] > 1
    lowest = np.full(len(counts), np.iinfo(np.int64).max)
    highest = np.full(len(counts), np.iinfo(np.int64).min)
    np.minimum.at(lowest, inverse.reshape(-1), apart)
    np.maximum.at(highest, inverse.reshape(-1), apart)
    return (lowest < highest)[inverse.reshape(-1)]


def _size(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # To open a named pipe would wait for a writer that never comes.
    return status.st_size or None if stat.S_ISREG(status.st_mode) else None


def _sample(path: str) -> bytes | None:
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), SAMPLE_BYTES, max(0, (size - SAMPLE_BYTES) // 2))
    except OSError:
        return None


def _digest(path: str) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
