"""Which pixel caches there are, and which make room for new ones: by last use and by size."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipelines.pixel_cache import store
from pipelines.pixel_cache.cache import PixelCache

MAX_DAYS = 60  # since a cache was last used
MAX_SHARE = 0.25  # of the file system, for all caches


class StoredCache(NamedTuple):
    """A cache on the disk.

    Attributes:
      nbytes: of its files.
      used: when a run last used it, in seconds since 1970.
    """

    path: Path
    nbytes: int
    used: float


def list_caches(folder: Path) -> list[StoredCache]:
    """Returns the complete caches, the last used first."""
    caches = []
    for path in store.complete_folders(folder):
        with contextlib.suppress(OSError):  # removed meanwhile
            nbytes = sum(file.stat().st_size for file in path.iterdir())
            caches.append(StoredCache(path, nbytes, path.stat().st_mtime))
    return sorted(caches, key=lambda cache: cache.used, reverse=True)


def mark_used(cache: PixelCache) -> None:
    """Remembers that a cache is used now."""
    assert cache.file
    with contextlib.suppress(OSError):  # of another user
        os.utime(cache.file.path.parent)


def make_room(folder: Path, nbytes: int) -> None:
    """Removes what is old, or more than there may be with another cache of so many bytes.

    One that finds no place even without the others is no reason to remove them.
    """
    caches = list_caches(folder)
    with contextlib.suppress(OSError):
        system = os.statvfs(folder)
        left = MAX_SHARE * system.f_blocks * system.f_frsize - nbytes
        if nbytes > system.f_bavail * system.f_frsize + sum(cache.nbytes for cache in caches):
            left = math.inf
        oldest = time.time() - MAX_DAYS * 24 * 3600
        old = []
        for cache in caches:
            left -= cache.nbytes
            if left < 0 or cache.used < oldest:
                old.append(cache)
        remove(folder, old)


def remove(folder: Path, caches: Iterable[StoredCache]) -> list[StoredCache]:
    """Removes caches, and what killed runs left; returns those that a run uses, which stay.

    Raises:
      OSError: the folder can't be written.
    """
    store.remove_abandoned(folder)
    return [cache for cache in caches if not store.remove(cache.path)]
