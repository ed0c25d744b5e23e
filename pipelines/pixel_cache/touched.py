"""Files that changed in another way than by size and time: their contents decide."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

from pipelines.pixel_cache import scan, store
from pipelines.pixel_cache.cache import PixelCache
from pipelines.pixel_cache.index import CacheIndex
from pipelines.sources.examples import Examples


def compare_touched(
    index: CacheIndex,
    images: Examples,
    caches: Sequence[PixelCache],
    threads: int,
    log: Callable[[str], None],
) -> None:
    """Reads the files again that a cache has with another time of change.

    Those with the same contents count as unchanged in the cache from now on.

    Args:
      index: of the images as they are now.
      threads: how many read.
    """
    facts = index.facts
    matches = [cache.index.find_stamps(facts["stamp"]) for cache in caches]
    touched = [
        (rows >= 0) & (cache.index.facts["changed"][rows] != facts["changed"])
        for cache, rows in zip(caches, matches, strict=True)
    ]
    numbers = np.flatnonzero(np.any(touched, axis=0) if touched else ())
    if not len(numbers):
        return
    log(f"reading {len(numbers):,} images again, whose files were touched since")
    fingerprints = np.full(len(images), -1)
    fingerprints[numbers] = scan.fingerprint_images(images.take(numbers), threads)
    for cache, rows, mask in zip(caches, matches, touched, strict=True):
        theirs = cache.index.facts
        same = mask & (theirs["fingerprint"][rows] == fingerprints)
        theirs["changed"][rows[same]] = facts["changed"][same]
        with contextlib.suppress(OSError):  # the next run reads them again
            store.save_index(cache)
