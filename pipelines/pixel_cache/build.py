"""Decodes the images of a dataset into a pixel cache, each image once for this and later runs.

Images that earlier runs have cached are copied; only the others are decoded. A dataset that grew by
ten images decodes ten.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from engine.core.text import byte_size
from pipelines.decode import decode
from pipelines.pixel_cache import store
from pipelines.pixel_cache.cache import CacheLocation, PixelCache
from pipelines.pixel_cache.fill import PixelFiller
from pipelines.pixel_cache.index import CacheIndex, stamp_images, system_reason
from pipelines.pixel_cache.scan import BrokenImage
from pipelines.pixel_cache.store import PixelWriter
from pipelines.sources.examples import Examples

NICENESS = 19  # of the thread that writes for later runs


class ScanResult(NamedTuple):
    """Examples, their `rows` filled in; the broken ones among them; the pixels, if cached."""

    examples: Examples
    broken: list[BrokenImage]
    pixels: PixelCache | None


class PixelCacheBuilder:
    """Finds or makes the pixel cache of N examples that name M different images.

    Attributes:
      numbers: int64 [N], the image of each example; -1 where there is no file.
      images: the examples [M] that name each image first.
      stamps: STAMP [M], of each image.
      faults: index -> reason of the examples without a file.
      shape: height, width and 3.
    """

    def __init__(
        self,
        examples: Examples,
        size: tuple[int, int],
        resize: str,
        threads: int,
        log: Callable[[str], None],
        location: CacheLocation,
    ) -> None:
        """Stamps every file and opens none.

        Args:
          size, resize: as in `decode.decode`.
          threads: how many images are decoded at a time.
          log: takes one line for the user.
        """
        self.examples, self.resize, self.threads = examples, resize, threads
        self.log, self.location = log, location
        self.shape = (*size, 3)
        stamps, self.faults = stamp_images(examples.paths, examples.offsets, examples.lengths)
        present = np.flatnonzero(stamps != b"")
        _, firsts, inverse = np.unique(stamps[present], return_index=True, return_inverse=True)
        order = np.argsort(firsts)  # images are numbered by their first example, not by stamps
        self.numbers = np.full(len(examples), -1)
        self.numbers[present] = np.argsort(order)[inverse.reshape(-1)]
        self.images = examples.take(present[firsts[order]])
        self.stamps = stamps[present[firsts[order]]]

    @property
    def nbytes(self) -> int:
        return len(self.images) * int(np.prod(self.shape))

    @property
    def fits(self) -> bool:
        return self.nbytes <= self.location.memory

    @functools.cached_property
    def definition(self) -> str:
        """What makes pixels of bytes; TensorFlow's version, since its decoders may change."""
        height, width, _ = self.shape
        values = {"height": height, "width": width, "resize": self.resize}
        return json.dumps({**values, "decode": decode.VERSION, "tensorflow": tf.__version__})

    def decode(self, contents: tf.Tensor) -> tf.Tensor:
        """string scalar -> uint8 [height, width, 3]."""
        return decode.decode(contents, *self.shape[:2], self.resize)

    def build(self) -> ScanResult:
        """Decodes every image that is not cached yet, and caches it where there is space."""
        caches = self._open_all()
        try:
            complete = self._complete(caches)
            if not complete:
                return self._fill(caches, self._writer())
            if self.fits:
                return self._fill([complete], None)
            self._log_cached()
            caches.remove(complete)
            return self._result(complete.index, complete.index.find(self.stamps), complete)
        finally:
            _close(caches)

    def open_existing(self) -> ScanResult | None:
        """Opens the cache of an earlier run; None where an image is missing there."""
        caches = self._open_all()
        complete = self._complete(caches)
        if complete:
            caches.remove(complete)
        _close(caches)
        if not complete:
            return None
        return self._result(complete.index, complete.index.find(self.stamps), complete)

    def _open_all(self) -> list[PixelCache]:
        """Opens the caches on the disk, the one with most of the images first."""
        if self.location.folder is None or not len(self.images):
            return []
        caches = store.open_all(self.location.folder, self.definition, self.shape)
        return sorted(caches, key=self._count_in, reverse=True)

    def _count_in(self, cache: PixelCache) -> int:
        return int(np.count_nonzero(cache.index.find(self.stamps) >= 0))

    def _complete(self, caches: list[PixelCache]) -> PixelCache | None:
        """The cache that has all images."""
        complete = caches and self._count_in(caches[0]) == len(self.images)
        return caches[0] if complete else None

    def _writer(self) -> PixelWriter | None:
        """What writes to the disk; None where that is impossible."""
        if self.location.folder is None or not len(self.images):
            return None
        try:
            return PixelWriter(self.location.folder, self.definition, self.stamps, self.shape)
        except OSError as error:
            self._log_failed(error, self.fits)
            return None

    def _fill(self, caches: list[PixelCache], writer: PixelWriter | None) -> ScanResult:
        """Copies and decodes; a thread then publishes what the writer wrote."""
        index = CacheIndex.of(self.definition, self.images, self.stamps)
        filler = PixelFiller(self.images, index, self.shape, self.fits, writer)
        try:
            for cache in caches:
                filler.copy(cache)
            _close(caches)  # so that they can be removed if the new one replaces them
            if missing := int(np.count_nonzero(filler.missing)):
                self._log_decoding(missing, writer)
                filler.decode(self.decode, self.threads)
            else:
                self._log_cached()
        except BaseException:
            if writer:
                writer.discard()
            raise
        pixels = filler.pixels()
        if writer and pixels:
            # The program waits for this thread at its end; training need not.
            pixels.saving = threading.Thread(target=self._save, args=(filler, writer, pixels))
            pixels.saving.start()
        elif writer and filler.error:
            writer.discard()
            self._log_failed(filler.error, this_run=False)
        return self._result(filler.index, np.arange(len(self.images)), pixels)

    def _save(self, filler: PixelFiller, writer: PixelWriter, pixels: PixelCache) -> None:
        # On Linux a thread has its own priority: this one takes the time that training leaves.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            if pixels.in_memory:
                writer.write_all(pixels.images, self.location.give_way)
                self.location.give_way()  # flushing to the disk takes long, too
            first = writer.publish(filler.index)
        except InterruptedError:  # the program ends
            writer.discard()
            return
        except OSError as error:
            writer.discard()
            self._log_failed(error, this_run=True)
            return
        if first is None:
            if pixels.in_memory:
                writer.close()
            with contextlib.suppress(OSError):
                store.remove_obsolete(writer.path, filler.index)
        elif not pixels.in_memory and np.array_equal(
            first.index.facts["stamp"], filler.index.facts["stamp"]
        ):
            pixels.switch_to(first)  # frees the disk space of this run's own file
        else:
            first.close()

    def _result(self, index: CacheIndex, rows: np.ndarray, pixels: PixelCache | None) -> ScanResult:
        """Returns what is known of each example.

        Args:
          rows: int64 [M], each image's row in the index and in the pixels.
        """
        reasons = dict(self.faults)
        present = np.flatnonzero(self.numbers >= 0)
        rows = rows[self.numbers[present]]
        broken = index.broken[rows]
        reasons.update(zip(present[broken].tolist(), index.reasons[rows[broken]], strict=True))
        column = np.full(len(self.examples), -1)
        if pixels is not None:
            column[present] = np.where(broken, -1, rows)
        images = [BrokenImage(n, self.examples.name(n), reasons[n]) for n in sorted(reasons)]
        return ScanResult(self.examples.replace(rows=column), images, pixels)

    def _log_cached(self) -> None:
        if len(self.images):
            size, folder = byte_size(self.nbytes), self.location.folder
            where = "read into memory" if self.fits else "on the disk"
            self.log(f"{self._count()} from the cache in {folder}, {size} {where}")

    def _log_decoding(self, missing: int, writer: PixelWriter | None) -> None:
        of = "" if missing == len(self.images) else f"{missing:,} of "
        size, folder = byte_size(self.nbytes), self.location.folder
        if self.fits:
            cached = f", cached for later runs in {folder}" if writer else ""
            self.log(f"decoding {of}{self._count()} into memory, {size}{cached}")
        elif writer:
            self.log(f"decoding {of}{self._count()} into {folder}, {size}")
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


def _close(caches: list[PixelCache]) -> None:
    for cache in caches:
        cache.close()
