"""Augmentation views: a new one for each image in each epoch, or a few in turn.

A view is the number of a draw of the augmentation. Where each epoch draws again, it is the epoch's
number. With `count` views an image is seen through that many draws in turn, so that the frozen
trunk's outputs can be cached; with `refresh`, that share of them is redrawn each epoch. Images are
refreshed in groups of neighbours, so that a group fills a batch.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly over [0, 1)


@dataclasses.dataclass(frozen=True)
class ViewSchedule:
    """The views of a phase."""

    first_epoch: int  # of the phase, counted over all phases
    count: int | None = None  # views in turn; None for a new one each epoch
    refresh: float = 0.0  # the share of the views in turn that is redrawn each epoch
    group: int = 1  # images that are refreshed together

    def __call__(self, examples: np.ndarray, epoch: int) -> np.ndarray:
        """int32 [n] and the epoch, counted over all phases -> the view of each, int32 [n].

        The generation of view k at epoch e is floor(refresh e + u), where the group's own u in
        [0, 1) spreads the groups evenly; view k of generation g is draw k + g count.
        """
        examples = np.asarray(examples)
        if self.count is None:
            return np.full(examples.shape, epoch, np.int32)
        elapsed = epoch - self.first_epoch
        offset = (examples // self.group * _GOLDEN_RATIO) % 1
        generation = np.floor(self.refresh * elapsed + offset).astype(np.int32)
        return (self.first_epoch + elapsed % self.count + self.count * generation).astype(np.int32)

    def slot(self, views: np.ndarray) -> np.ndarray:
        """Which of the `count` slots the views take."""
        return (np.asarray(views) - self.first_epoch) % (self.count or 1)
