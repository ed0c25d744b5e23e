"""Which files hold the same bytes, without reading more of them than it takes to tell."""

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
_READERS = 16  # they wait for the disk, not for a core


def first_of_same_content(paths: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    """For every file the index of the first one with the same content, itself where there is none.

    Sizes are compared first, then 4 KiB from the middle, then hashes of the whole, each only for
    files that were equal so far. Links to one file have the same content. Empty files and such as
    can't be read are like no other.

    Args:
      paths: str [N].
      apart: int [N]; only files that differ in it are of interest: others may go unnoticed.

    Returns:
      int64 [N].
    """
    classes = np.zeros(len(paths), dtype=np.int64)
    open_ = np.arange(len(paths))
    with ThreadPoolExecutor(_READERS) as pool:
        for feature in (_size, _sample, _digest):
            classes[open_] = _refined(open_, classes, paths, feature, pool)
            open_ = open_[_shared(classes[open_], None if apart is None else apart[open_])]
    first = np.arange(len(paths))
    _, begin, inverse = np.unique(classes[open_], return_index=True, return_inverse=True)
    first[open_] = open_[begin][inverse.reshape(-1)]
    return first


def _refined(
    indices: np.ndarray,
    classes: np.ndarray,
    paths: np.ndarray,
    feature: Callable[[str], Hashable | None],
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Numbers that are equal where the classes so far and the feature are equal."""
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
    """bool [n]: the class has several members, on both sides of `apart` where it is given."""
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
