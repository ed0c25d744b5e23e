"""Finds files with the same bytes, reading no more of them than necessary."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

SAMPLE_BYTES = 4096
_CHUNK = 256  # files; a task for each would cost more than what it does
_READERS = 16  # threads; they wait for the disk, not for a core


def first_identical_file(paths: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    """Returns for every file the index of the first one with the same content, or its own.

    Sizes are compared first, then 4 KiB from the middle, then hashes of the whole, each only for
    files that are equal so far. Links to one file have the same content. Empty and unreadable files
    are equal to no other.

    Args:
      paths: str [N].
      apart: int [N]; only identical files that differ in it are needed: others may be missed.

    Returns:
      int64 [N].
    """
    groups = [list(range(len(paths)))]
    with ThreadPoolExecutor(_READERS) as pool:
        for feature in (_size, _sample, _digest):
            members = np.array(list(itertools.chain.from_iterable(groups)), int)
            chunks = np.array_split(paths[members], max(1, len(members) // _CHUNK))
            results = pool.map(lambda chunk, of=feature: [of(path) for path in chunk], chunks)
            values = itertools.chain.from_iterable(results)
            features = dict(zip(members.tolist(), values, strict=True))
            groups = [
                equal
                for group in groups
                for equal in _divide(group, features)
                if len(equal) > 1 and (apart is None or len(set(apart[equal])) > 1)
            ]
    first = np.arange(len(paths))
    for group in groups:
        first[group] = group[0]
    return first


def _divide(group: list[int], features: dict[int, Hashable]) -> Iterable[list[int]]:
    """Groups the members by their features; those without one (None) are left out."""
    equal = defaultdict(list)
    for index in group:
        if features[index] is not None:
            equal[features[index]].append(index)
    return equal.values()


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
