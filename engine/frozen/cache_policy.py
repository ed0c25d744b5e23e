"""What of a phase is worked out once and kept: bytes, time and number of epochs weighed.

An image passes the frozen trunk once for each view that is kept of it, and once an epoch where
none is. Keeping pays where there are fewer views than epochs. Views of an augmentation with few
outcomes (mirror images, quarter turns) are complete: every epoch draws among them as it would
anyway. Of any other augmentation a number of draws stands for all, which for the head alone makes
no difference that we could measure (see docs/caching.md); deeper phases keep such views only where
the recipe asks for them. Which views an image is seen through follows from the recipe alone; the
room there is decides whether what the trunk makes of them is kept, which moves no bits.
"""

from __future__ import annotations

import dataclasses
import math

from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Phase, Recipe
from engine.core.text import byte_size
from engine.frozen.array_store import CacheBudget, width

HEAD_VIEWS = 4  # draws that stand for all of a continuous augmentation, for a head
MOST_OUTCOMES = 16  # more are no better than draws

Output = tuple[tuple[int, ...], str]  # shape without the batch, and type


@dataclasses.dataclass(frozen=True)
class CacheDecision:
    """What is kept of a phase's trunk.

    views: how many draws each image is seen through in turn; None for a new one each epoch.
    slots: rows for each training image; 0 where each step runs the trunk.
    validation: whether the validation images' outputs are kept.
    reason: why, in a sentence.
    """

    views: int | None
    slots: int
    validation: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class CacheRequest:
    """What `decide` weighs.

    outcomes: of the augmentation; None where they can't be counted.
    outputs: of the trunk, for one image. images_per_second: of the trunk.
    head_only: whether the phase trains nothing below the head.
    """

    recipe: Recipe
    phase: Phase
    loader: DataLoader
    outcomes: int | None
    outputs: list[Output]
    frozen: bool
    head_only: bool
    images_per_second: float

    @property
    def row_bytes(self) -> int:
        return sum(math.prod(shape) * width(dtype) for shape, dtype in self.outputs)


def decide(asked: CacheRequest, cache_budget: CacheBudget) -> CacheDecision:
    """The plan for one phase.

    Raises:
      UserError: `cache=features`, and there is no room for it.
    """
    recipe, phase, loader = asked.recipe, asked.phase, asked.loader
    forced = recipe.cache == "features"
    if not asked.frozen:
        return CacheDecision(phase.views, 0, False, "nothing is frozen, so nothing can be kept")
    if recipe.cache not in ("auto", "features"):
        return CacheDecision(phase.views, 0, False, f"cache={recipe.cache}")
    views, slots = _rows(asked)
    row, epochs = asked.row_bytes, phase.epochs
    where = cache_budget.fits((slots * loader.train_examples + loader.validation_examples) * row)
    if where is None and forced:
        need = slots * loader.train_examples * row
        raise UserError(
            f"--cache=features: phase {phase.name!r} needs {byte_size(need)}, and there is no such "
            "room; raise --cache_memory, name a --cache_dir on a larger disk, or lower views"
        )
    validation = cache_budget.fits(loader.validation_examples * row) == "memory" and epochs > 1
    passes = _passes(views, slots, phase)
    if slots == 0 or (passes >= epochs and not forced):
        return CacheDecision(phase.views, 0, validation, "each epoch has views of its own")
    if where is None:  # the views stay: how much memory is free must not move bits
        return CacheDecision(views, 0, validation, "no room for the trunk's outputs")
    return CacheDecision(views, slots, validation, _saving(asked, slots, passes, where))


def _rows(asked: CacheRequest) -> tuple[int | None, int]:
    """Views in turn (None for all outcomes), and the rows that this makes for each image."""
    phase = asked.phase
    if phase.views:
        return phase.views, phase.views
    if asked.outcomes is not None and asked.outcomes <= MOST_OUTCOMES:
        return None, asked.outcomes
    if asked.head_only or asked.recipe.cache == "features":
        return HEAD_VIEWS, HEAD_VIEWS
    return None, 0


def _passes(views: int | None, slots: int, phase: Phase) -> float:
    """How often each image passes the trunk in the whole phase.

    Views in turn are worked out in their first round, and after it as far as they were drawn anew
    since the round before.
    """
    if views is None:
        return slots
    return min(slots, phase.epochs) + max(0, phase.epochs - slots) * min(1, phase.refresh * slots)


def _saving(asked: CacheRequest, slots: int, passes: float, where: str) -> str:
    loader, epochs = asked.loader, asked.phase.epochs
    kept = slots * loader.train_examples * asked.row_bytes
    saved = max(0, epochs - passes) * loader.train_examples / asked.images_per_second
    views = "all " * (asked.phase.views is None and asked.outcomes == slots)
    kept_there = (
        f"the trunk's outputs for {views}{slots} view{'s' * (slots > 1)} of each image, "
        f"{byte_size(kept)} {'in memory' if where == 'memory' else 'on disk'}"
    )
    if passes >= epochs:  # as the recipe asks for it
        return kept_there
    return (
        f"{kept_there}; it runs {passes:g} time{'s' * (passes != 1)} instead of {epochs}, "
        f"which saves about {saved:.0f} s"
    )
