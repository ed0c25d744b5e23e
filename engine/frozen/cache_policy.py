"""Whether the outputs of a phase's frozen trunk are cached: bytes, time and epochs weighed.

An image passes the frozen trunk once for each cached view, or once an epoch without a cache, so
caching pays where there are fewer views than epochs. The views of an augmentation with few outcomes
(mirror images, quarter turns) are complete: every epoch draws among them as it would anyway. For
any other augmentation a few draws stand for all, which for the head alone made no measurable
difference (see docs/caching.md); deeper phases use such views only where the recipe asks for them.
The views of an image follow from the recipe alone; the budget decides only whether the trunk's
outputs are cached, which moves no bits.
"""

from __future__ import annotations

import dataclasses

from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Phase, Recipe
from engine.core.text import byte_size
from engine.frozen.array_store import CacheBudget
from engine.optim.optimizers import SOLVER

HEAD_VIEWS = 4  # draws that stand for all of a continuous augmentation, for a head
MAX_OUTCOMES = 16  # an augmentation with more is no better cached whole than by draws


@dataclasses.dataclass(frozen=True)
class CacheDecision:
    """What is cached of a phase's trunk."""

    views: int | None  # draws that each image is seen through in turn; None: a new one each epoch
    slots: int  # cached rows for each training image; 0 where each step runs the trunk
    validation: bool  # whether the outputs for the validation images are cached
    reason: str  # a sentence


def decide(
    recipe: Recipe,
    phase: Phase,
    loader: DataLoader,
    *,
    frozen: bool,
    outcomes: int | None,
    row_bytes: int,
    images_per_second: float,
    budget: CacheBudget,
) -> CacheDecision:
    """Decides for one phase.

    Args:
      frozen: whether there is a trunk with weights.
      outcomes: how many the augmentation has; None where they can't be counted.
      row_bytes: size of the trunk's outputs for one image.
      images_per_second: of the trunk.

    Raises:
      UserError: `cache=features`, and the outputs do not fit.
    """
    if not frozen:
        return CacheDecision(phase.views, 0, False, "nothing is frozen, so nothing can be cached")
    if phase.optimizer == SOLVER:
        return CacheDecision(None, 0, False, "the head is solved on one view of each image")
    if recipe.cache not in ("auto", "features"):
        return CacheDecision(phase.views, 0, False, f"cache={recipe.cache}")
    forced = recipe.cache == "features"
    views, slots = _views_and_slots(recipe, phase, outcomes)
    train_bytes = slots * loader.train_examples * row_bytes
    validation_bytes = loader.validation_examples * row_bytes
    place = budget.place(train_bytes + validation_bytes)
    if place is None and forced:
        raise UserError(
            f"--cache=features: phase {phase.name!r} needs {byte_size(train_bytes)}, which fit in "
            "neither memory nor on disk; raise --cache_memory, choose a --cache_dir on a larger "
            "disk, or lower views"
        )
    validation = budget.place(validation_bytes) == "memory" and phase.epochs > 1
    passes = _trunk_passes(views, slots, phase)
    if slots == 0 or (passes >= phase.epochs and not forced):
        return CacheDecision(phase.views, 0, validation, "each epoch has views of its own")
    if place is None:  # the views stay: how much memory is free must not move bits
        return CacheDecision(views, 0, validation, "no room for the trunk's outputs")
    complete = "all " * (phase.views is None and outcomes == slots)
    reason = (
        f"the trunk's outputs for {complete}{slots} view{'s' * (slots > 1)} of each image, "
        f"{byte_size(train_bytes)} {'in memory' if place == 'memory' else 'on disk'}"
    )
    if passes < phase.epochs:
        saved = (phase.epochs - passes) * loader.train_examples / images_per_second
        reason += (
            f"; it runs {passes:g} time{'s' * (passes != 1)} instead of {phase.epochs}, "
            f"which saves about {saved:.0f} s"
        )
    return CacheDecision(views, slots, validation, reason)


def _views_and_slots(recipe: Recipe, phase: Phase, outcomes: int | None) -> tuple[int | None, int]:
    """Views in turn (None for all outcomes), and the rows for each image that they take."""
    if phase.views:
        return phase.views, phase.views
    if outcomes is not None and outcomes <= MAX_OUTCOMES:
        return None, outcomes
    if phase.trainable == "head" or recipe.cache == "features":
        return HEAD_VIEWS, HEAD_VIEWS
    return None, 0


def _trunk_passes(views: int | None, slots: int, phase: Phase) -> float:
    """How often each image passes the trunk in the whole phase.

    Views in turn are computed in their first round, and after it as far as they were redrawn since
    the round before.
    """
    if views is None:
        return slots
    return min(slots, phase.epochs) + max(0, phase.epochs - slots) * min(1, phase.refresh * slots)
