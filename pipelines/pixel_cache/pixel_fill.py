"""The rows of a job while they are filled: copied from earlier runs, or decoded."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from pipelines.decode import headers
from pipelines.pixel_cache import pixel_index, scan
from pipelines.pixel_cache.mapping import Mapping
from pipelines.pixel_cache.pixel_files import Kept, Part
from pipelines.pixel_cache.pixel_plan import Job
from pipelines.pixel_cache.scan import ImageFacts
from pipelines.pixel_cache.store import Pixels

_BATCH = 32  # images that are copied at a time


class Filling:
    """M rows in memory, in a part on the disk, or in neither where only the look is wanted.

    index: what is known of each row so far.
    missing: bool [M], the rows that are still to be filled.
    error: what kept an image from being written; nothing is written any more then.
    """

    def __init__(self, job: Job, part: Part | None) -> None:
        self.job, self.part = job, part
        self._mapping = Mapping((len(job.firsts), *job.shape)) if job.fits else None
        self.index = pixel_index.blank(job.definition, len(job.firsts))
        self.index.stamps[:] = job.stamps
        self.missing = np.ones(len(self.index), dtype=bool)
        self.error: OSError | None = None

    @functools.cached_property
    def memory(self) -> np.ndarray | None:
        """uint8 [M, height, width, 3] where the pixels fit there."""
        return self._mapping.array() if self._mapping else None

    @property
    def keeps(self) -> bool:
        """Whether pixels go anywhere."""
        return self.job.fits or self.part is not None

    def copy(self, kept: Kept) -> None:
        """Takes over what a folder knows of the missing rows."""
        theirs = kept.index.find(self.job.stamps)
        ours = np.flatnonzero(self.missing & (theirs >= 0))
        ours = ours[np.argsort(theirs[ours])]  # as they lie on the disk
        for name in (*pixel_index.FACTS, "reasons"):
            getattr(self.index, name)[ours] = getattr(kept.index, name)[theirs[ours]]
        broken = self.index.reasons[ours] != ""
        if not self.keeps:
            self.missing[ours] = False
            return
        self.missing[ours[broken]] = False
        pixels = of_kept(self.job, kept)
        ours = ours[~broken]
        for rows in np.split(ours, np.arange(_BATCH, len(ours), _BATCH)):
            try:
                self._put(rows, pixels.take(theirs[rows]))
            except OSError:  # a bad spot on the disk: the rest is decoded
                return

    def decode(self, begin: Callable[[], None]) -> None:
        """Looks at the images that are still missing; `begin` is called before the first."""
        job, index = self.job, self.index
        rows = np.flatnonzero(self.missing)

        examples = job.examples.take(job.firsts[rows])
        told = headers.sample(len(rows))

        def keep(numbers: np.ndarray, facts: ImageFacts) -> None:
            places = rows[numbers]
            index.orientations[places] = facts.orientations
            index.fingerprints[places] = facts.fingerprints
            looked_at = numbers[told[numbers]]
            index.headers[rows[looked_at]] = headers.of(examples, looked_at)
            self._put(places, facts.pixels)

        wanted = keep if self.keeps else None
        for one in scan.look(examples, job.decode, job.threads, keep=wanted, begin=begin):
            row = rows[one.index]
            self.missing[row] = False
            index.reasons[row] = one.reason
            if not one.lasting:  # the next run is to look for itself
                index.stamps[row] = b""

    def pixels(self) -> Pixels | None:
        """What has been filled; None where it is nowhere."""
        facts = self.index.facts()
        if self.memory is not None:
            self.memory[self.index.reasons != ""] = 0
            return Pixels(self.job.shape, *facts, memory=self.memory)
        if self.part is None or self.error:
            return None
        return Pixels(self.job.shape, *facts, file=self.part.pixels, lock=self.part.lock)

    def _put(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.missing[rows] = False
        if self.memory is not None:
            self.memory[rows] = images
        elif self.part and not self.error:
            try:
                self.part.write(rows, images)
            except OSError as error:
                self.error = error


def of_kept(job: Job, kept: Kept) -> Pixels:
    """The pixels of a complete folder, in its file."""
    return Pixels(job.shape, *kept.index.facts(), file=kept.pixels, lock=kept.lock)
