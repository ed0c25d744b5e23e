"""Which draw of the augmentation an image is seen through: a new one each epoch, or some in turn.

A view is the number of a draw. Where each epoch draws anew, it is the epoch's own number. With
`count` views an image is seen through that many draws in turn, so that what a frozen trunk makes
of them can be kept; with `refresh`, a share of them is drawn anew each epoch. Images are
refreshed in groups that stand together in their order, so that a group fills a batch.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.core.recipe import Phase

_GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, lie evenly in [0, 1)


@dataclasses.dataclass(frozen=True)
class ViewSchedule:
    """Those of a phase that begins with epoch `first_epoch`; `group` images change at once."""

    first_epoch: int
    count: int | None = None
    refresh: float = 0.0
    group: int = 1

    def __call__(self, examples: np.ndarray, epoch: int) -> np.ndarray:
        """int32 [n] and the epoch, counted over all phases -> the view of each, int32 [n].

        The generation of view k at epoch e is floor(refresh e + u), where the group's own u in
        [0, 1) spreads the groups evenly; view k of generation g is draw k + g count.
        """
        examples = np.asarray(examples)
        since = epoch - self.first_epoch
        if self.count is None:
            return np.full(examples.shape, epoch, np.int32)
        offset = (examples // self.group * _GOLDEN) % 1
        generation = np.floor(self.refresh * since + offset).astype(np.int32)
        return (self.first_epoch + since % self.count + self.count * generation).astype(np.int32)

    def slot(self, views: np.ndarray) -> np.ndarray:
        """Which of the `count` places the views take."""
        return (np.asarray(views) - self.first_epoch) % (self.count or 1)


def of_phase(phase: Phase, count: int | None, first_epoch: int, group: int) -> ViewSchedule:
    return ViewSchedule(first_epoch, count, phase.refresh if count else 0.0, group)
