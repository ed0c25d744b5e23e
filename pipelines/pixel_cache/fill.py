"""Fills the rows of a pixel cache: copied from caches of earlier runs, or decoded."""

from __future__ import annotations

import functools

import numpy as np

from pipelines.decode import headers
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.cache import PixelCache
from pipelines.pixel_cache.index import CacheIndex
from pipelines.pixel_cache.prefault import PrefaultedArray
from pipelines.pixel_cache.scan import Decode, ImageFacts
from pipelines.pixel_cache.store import PixelWriter
from pipelines.sources.examples import Examples

_BATCH = 32  # images that are copied at a time


class PixelFiller:
    """The rows of M images while they are filled: in memory, on the disk, or checked only.

    Attributes:
      index: what is known of each row so far.
      missing: bool [M], the rows that are still to be filled.
      error: why an image could not be written; nothing more is written then.
    """

    def __init__(
        self,
        images: Examples,
        index: CacheIndex,
        shape: tuple[int, int, int],
        in_memory: bool,
        writer: PixelWriter | None,
    ) -> None:
        """Starts with no row filled.

        Args:
          images: M different ones; index: of them, which is completed.
          in_memory: fills memory, and leaves it to the caller to write that to the disk.
          writer: where rows go that are not held in memory; None for nowhere.
        """
        self.images, self.index, self.shape, self.writer = images, index, shape, writer
        self.in_memory = in_memory
        self._prefaulted = PrefaultedArray((len(images), *shape)) if in_memory else None
        self.missing = np.ones(len(images), dtype=bool)
        self.error: OSError | None = None

    @functools.cached_property
    def memory(self) -> np.ndarray | None:
        """uint8 [M, height, width, 3] where the rows are filled there."""
        return self._prefaulted.take() if self._prefaulted else None

    @property
    def _caching(self) -> bool:
        return self.in_memory or self.writer is not None

    def copy(self, cache: PixelCache) -> None:
        """Copies the missing rows that a cache has."""
        theirs = cache.index.find(self.index.facts["stamp"])
        ours = np.flatnonzero(self.missing & (theirs >= 0))
        ours = ours[np.argsort(theirs[ours])]  # in the order on the disk
        self.index.facts[ours] = cache.index.facts[theirs[ours]]
        self.index.reasons[ours] = cache.index.reasons[theirs[ours]]
        if not self._caching:
            self.missing[ours] = False
            return
        broken = self.index.broken[ours]
        self.missing[ours[broken]] = False
        ours = ours[~broken]
        for rows in np.split(ours, np.arange(_BATCH, len(ours), _BATCH)):
            try:
                self._put(rows, cache.take(theirs[rows]))
            except OSError:  # a bad sector: the rest is decoded
                return

    def decode(self, decode: Decode, threads: int) -> None:
        """Decodes the missing images; arguments as of `scan_images`."""
        rows = np.flatnonzero(self.missing)
        examples = self.images.take(rows)
        sampled, columns = headers.sample_mask(len(rows)), self.index.facts

        def collect(numbers: np.ndarray, facts: ImageFacts) -> None:
            columns["orientation"][rows[numbers]] = facts.orientations
            columns["fingerprint"][rows[numbers]] = facts.fingerprints
            with_header = numbers[sampled[numbers]]
            columns["header"][rows[with_header]] = headers.read_headers(examples, with_header)
            self._put(rows[numbers], facts.pixels)

        collector = collect if self._caching else None
        for image in scan.scan_images(examples, decode, threads, collector):
            row = rows[image.index]
            self.missing[row] = False
            self.index.reasons[row] = image.reason
            if not image.permanent:  # the next run looks again
                columns["stamp"][row] = b""

    def pixels(self) -> PixelCache | None:
        """Returns the filled rows; None where they are stored nowhere."""
        if self.memory is not None:
            self.memory[self.index.broken] = 0
            return PixelCache(self.shape, self.index, memory=self.memory)
        if self.writer is None or self.error:
            return None
        return PixelCache(self.shape, self.index, file=self.writer.file, lock=self.writer.lock)

    def _put(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.missing[rows] = False
        if self.memory is not None:
            self.memory[rows] = images
        elif self.writer and not self.error:
            try:
                self.writer.write(rows, images)
            except OSError as error:
                self.error = error
