"""Decodes the images of a dataset into a pixel cache, each image once for this and later runs.

Images that earlier runs have cached are copied; only the others are decoded. A dataset that grew by
ten images decodes ten.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from engine.core.recipe import Recipe
from engine.core.text import byte_size
from pipelines.decode import decode, headers
from pipelines.decode.bounds import Decoded
from pipelines.pixel_cache import ageing, scan, store, touched
from pipelines.pixel_cache.cache import NOWHERE, CacheLocation, PixelCache, checksums, prefaulted
from pipelines.pixel_cache.index import CacheIndex, stamp_images, system_reason
from pipelines.pixel_cache.scan import BrokenImage, ImageFacts
from pipelines.pixel_cache.store import PixelWriter
from pipelines.sources.examples import Examples

NICENESS = 19  # of the thread that writes for later runs
_BATCH = 32  # images that are copied at a time
_MANY = 50_000  # images whose decoding is announced though nothing is cached


class ScanResult(NamedTuple):
    """Examples, their `rows` filled in; the broken ones among them; the pixels, if cached."""

    examples: Examples
    broken: list[BrokenImage]
    pixels: PixelCache | None


class PixelCacheBuilder:
    """Finds or makes the pixel cache of the examples that have a file, the images.

    Attributes:
      present: int64 [M], the examples with a file; images: these examples.
      faults: index -> reason of the examples without a file.
      shape: height, width and 3.
      index: what is known of each image so far.
      missing: bool [M], the images that are neither copied nor decoded yet.
      memory: uint8 [M, *shape] where the pixels fit there.
      writer: what writes to the disk, or None.
      error: why a row could not be written; nothing more is written then.
    """

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        threads: int,
        log: Callable[[str], None],
        location: CacheLocation = NOWHERE,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Stamps every file and opens none.

        Args:
          threads: how many images are decoded at a time.
          log: takes one line for the user.
          cancelled: whether decoding is to end with an InterruptedError, asked for each batch.
        """
        self.examples, self.recipe, self.threads = examples, recipe, threads
        self.log, self.location, self.cancelled = log, location, cancelled
        self.shape = (*recipe.image_size, 3)
        stamps, changed, self.faults = stamp_images(
            examples.paths, examples.offsets, examples.lengths
        )
        self.present = present = np.flatnonzero(stamps != b"")
        self.images = examples.take(present)
        definition = self._definition()
        self.index = CacheIndex.of(definition, self.images, stamps[present], changed[present])
        self.nbytes = len(self.images) * int(np.prod(self.shape))
        self.fits = self.nbytes <= location.memory
        self.missing = np.ones(len(self.images), dtype=bool)
        self.memory: np.ndarray | None = None
        self.writer: PixelWriter | None = None
        self.error: OSError | None = None

    def build(self) -> ScanResult:
        """Decodes every image that is not cached yet, and caches it where there is space."""
        caches = self._open_caches()
        complete = self._is_complete(caches)
        if complete and not self.fits:
            self._log_cached()
            return self._result(caches[0].index, caches[0])
        if self.fits:
            self.memory = prefaulted((len(self.images), *self.shape))
        if not complete:
            self.writer = self._new_writer()
        try:
            while caches:  # closes each, so that it can be removed if the new one replaces it
                self._copy(caches.pop(0))
            if self.missing.any():
                if complete:  # but damaged
                    self.writer = self._new_writer()
                self._decode()
            else:
                self._log_cached()
        except BaseException:
            if self.writer:
                self.writer.discard()
            raise
        return self._result(self.index, self._finish())

    def open_existing(self) -> ScanResult | None:
        """Opens the cache of an earlier run; None where an image is missing there."""
        caches = self._open_caches()
        return self._result(caches[0].index, caches[0]) if self._is_complete(caches) else None

    def _definition(self) -> str:
        """What makes pixels of bytes; TensorFlow's version, since its decoders may change."""
        height, width, _ = self.shape
        values = {"height": height, "width": width, "resize": self.recipe.resize}
        return json.dumps({**values, "decode": decode.VERSION, "tensorflow": tf.__version__})

    def _open_caches(self) -> list[PixelCache]:
        """Opens the caches that have some of the images, the one with most of them first."""
        if self.location.folder is None or not len(self.images):
            return []
        caches = store.open_all(self.location.folder, self.index.definition, self.shape)
        touched.compare_touched(self.index, self.images, caches, self.threads, self.log)
        caches = [cache for cache in caches if self._count_in(cache)]
        for cache in caches:
            ageing.mark_used(cache)
        return sorted(caches, key=self._count_in, reverse=True)

    def _count_in(self, cache: PixelCache) -> int:
        return int(np.count_nonzero(cache.index.find(self.index.facts) >= 0))

    def _is_complete(self, caches: list[PixelCache]) -> bool:
        """Whether the first cache has all images."""
        return bool(caches) and self._count_in(caches[0]) == len(self.images)

    def _new_writer(self) -> PixelWriter | None:
        """What writes to the disk; None where that is impossible."""
        folder, index = self.location.folder, self.index
        if folder is None or not len(self.images):
            return None
        ageing.make_room(folder, self.nbytes)
        try:
            return PixelWriter(folder, index.definition, index.facts["stamp"], self.shape)
        except OSError as error:
            self._log_failed(error, self.fits)
            return None

    def _copy(self, cache: PixelCache) -> None:
        """Copies the missing rows that a cache has, except damaged ones."""
        theirs = cache.index.find(self.index.facts)
        ours = np.flatnonzero(self.missing & (theirs >= 0))
        ours = ours[np.argsort(theirs[ours])]  # in the order on the disk
        self.index.facts[ours] = cache.index.facts[theirs[ours]]
        self.index.reasons[ours] = cache.index.reasons[theirs[ours]]
        broken = self.index.broken[ours]
        self.missing[ours[broken]] = False
        ours = ours[~broken]
        for rows in np.split(ours, np.arange(_BATCH, len(ours), _BATCH)):
            try:
                images, intact = cache.take_checked(theirs[rows])
                self._put(rows[intact], images[intact])
            except OSError:  # a bad sector: the rest is decoded
                return

    def _decode(self) -> None:
        """Decodes the missing images."""
        rows = np.flatnonzero(self.missing)
        self._log_decoding(len(rows))
        examples, facts = self.images.take(rows), self.index.facts
        sampled = headers.sample_mask(len(rows))

        def decode_image(contents: tf.Tensor) -> Decoded:
            return decode.decode_oriented(contents, *self.shape[:2], self.recipe.resize)

        def collect(numbers: np.ndarray, batch: ImageFacts) -> None:
            if self.cancelled():
                raise InterruptedError("the images are no longer needed")
            facts["orientation"][rows[numbers]] = batch.orientations
            facts["fingerprint"][rows[numbers]] = batch.fingerprints
            facts["checksum"][rows[numbers]] = checksums(batch.pixels)
            with_header = numbers[sampled[numbers]]
            facts["header"][rows[with_header]] = headers.read_headers(examples, with_header)
            self._put(rows[numbers], batch.pixels)

        for image in scan.scan_images(examples, decode_image, self.threads, collect):
            row = rows[image.index]
            self.missing[row] = False
            self.index.reasons[row] = image.reason
            if not image.permanent:  # the next run looks again
                facts["stamp"][row] = b""

    def _put(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.missing[rows] = False
        if self.memory is not None:
            self.memory[rows] = images
        elif self.writer and not self.error:
            try:
                self.writer.write(rows, images)
            except OSError as error:
                self.error = error

    def _finish(self) -> PixelCache | None:
        """Returns the filled rows, None where they are stored nowhere; a thread publishes them."""
        if self.error and self.writer:
            self.writer.discard()
            self._log_failed(self.error, this_run=False)
            return None
        if self.memory is not None:
            self.memory[self.index.broken] = 0
            pixels = PixelCache(self.shape, self.index, memory=self.memory)
        elif self.writer:
            pixels = PixelCache(self.shape, self.index, file=self.writer.file)
        else:
            return None
        if self.writer:
            # The program waits for this thread at its end; training need not.
            pixels.saving = threading.Thread(target=self._save, args=[self.writer])
            pixels.saving.start()
        return pixels

    def _save(self, writer: PixelWriter) -> None:
        # On Linux a thread has its own priority: this one takes the time that training leaves.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            if self.memory is not None:
                writer.write_all(self.memory, self.location.give_way)
                self.location.give_way()  # flushing to the disk takes long, too
            writer.publish(self.index)
        except InterruptedError:  # the program ends
            writer.discard()
        except OSError as error:
            writer.discard()
            self._log_failed(error, this_run=True)

    def _result(self, index: CacheIndex, pixels: PixelCache | None) -> ScanResult:
        """Returns what an index knows of each example, and its pixels."""
        rows = np.arange(len(self.images))
        if index is not self.index:
            rows = index.find(self.index.facts)
        broken = index.broken[rows]
        reasons = self.faults | dict(
            zip(self.present[broken].tolist(), index.reasons[rows[broken]], strict=True)
        )
        column = np.full(len(self.examples), -1)
        if pixels is not None:
            column[self.present] = np.where(broken, -1, rows)
        images = [BrokenImage(n, self.examples.name(n), reasons[n]) for n in sorted(reasons)]
        return ScanResult(self.examples.replace(rows=column), images, pixels)

    def _log_cached(self) -> None:
        if len(self.images):
            size, folder = byte_size(self.nbytes), self.location.folder
            where = "read into memory" if self.fits else "on the disk"
            self.log(f"{self._count()} from the cache in {folder}, {size} {where}")

    def _log_decoding(self, missing: int) -> None:
        of = "" if missing == len(self.images) else f"{missing:,} of "
        size, folder = byte_size(self.nbytes), self.location.folder
        if self.fits:
            cached = f", cached for later runs in {folder}" if self.writer else ""
            self.log(f"decoding {of}{self._count()} into memory, {size}{cached}")
        elif self.writer:
            self.log(f"decoding {of}{self._count()} into {folder}, {size}")
        elif self.location is NOWHERE:
            if missing > _MANY:
                self.log(f"decoding {missing:,} images once, so that no broken one ends the run")
        elif folder is None:
            self.log(
                f"{self._count()} take {size}, more than --cache_memory allows, and no "
                "--cache_dir is given; every epoch decodes them"
            )

    def _log_failed(self, error: OSError, this_run: bool) -> None:
        """Says that nothing can be written, and whether at least this run has the pixels."""
        effect = "the pixels are cached for this run alone"
        if not this_run:
            effect = (
                f"{byte_size(self.nbytes)} of pixels can't be cached and every epoch decodes; free "
                "some space, or give another --cache_dir or more --cache_memory"
            )
        self.log(f"--cache_dir={self.location.folder}: {system_reason(error)}; {effect}")

    def _count(self) -> str:
        height, width, _ = self.shape
        return f"{len(self.images):,} images at {height}x{width}"
