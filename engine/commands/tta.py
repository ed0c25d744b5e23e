"""`--tta`: an answer that is the mean over several views of an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from engine.cli import flags as cli_flags
from engine.cli.flag_types import Number
from engine.core.dataset import Batch
from engine.core.recipe import Recipe
from engine.runs.directory import RunDirectory
from pipelines.augment import augment

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor
    from engine.inference.tta import TestTimeViews
    from engine.runs.load import LoadedRun

FLIP = "flip"  # as `engine.inference.tta` has it, which is not read before the flags are


class NumberOrFlip(Number):
    """A number of views, or the mirror image."""

    def __init__(self) -> None:
        super().__init__(int, 2)

    def parse(self, argument: str | float) -> Any:
        try:
            return FLIP if argument == FLIP else super().parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}, or {FLIP}") from None


def define(values: flags.FlagValues) -> None:
    text = (
        "average over several views: flip for the image and its mirror image; K, 2 or more, for "
        "the image and K - 1 draws of the run's own augmentation"
    )
    flags.DEFINE(NumberOrFlip(), "tta", None, text, flag_values=values)


def check(parsed: cli_flags.Parsed) -> None:
    """
    Raises:
      FlagError: draws of an augmentation are wanted, and there is no run to have one.
    """
    if parsed.tta not in (None, FLIP) and not parsed.run_dir:
        raise cli_flags.FlagError(
            f"--tta={parsed.tta} draws from a run's augmentation; give --run_dir, or --tta={FLIP}"
        )


def in_words(kind: str | int | None) -> str:
    """What an answer is the mean over; nothing where it is of the image as it is."""
    if kind is None:
        return ""
    if kind == FLIP:
        return "the image and its mirror image"
    return f"{kind} views, the image and draws of the run’s own augmentation"


def measuring(
    kind: str | int | None, opened: LoadedRun, data: Iterator[Batch]
) -> tuple[Callable, Iterator[Batch]]:
    """The evaluation step and the batches that it takes.

    Raises:
      UserError: see `tta.views`.
    """
    from engine.evaluation import eval_step
    from engine.inference import tta

    if kind is None:
        return eval_step.make_eval_step(opened.model), data
    seen = _views(kind, opened.recipe)
    return tta.make_eval_step(opened.model, opened.rule.temperature, seen), tta.numbered(data)


def looking_again(parsed: cli_flags.Parsed, model: Predictor) -> Predictor:
    """The model with the mean of its probabilities.

    Every image is seen through the draws of the first example: who else is asked about does not
    matter.

    Raises:
      UserError: see `tta.views`.
    """
    import tensorflow as tf

    from engine.inference import tta

    recipe = RunDirectory(Path(parsed.run_dir)).read_recipe() if parsed.run_dir else None
    mean = tta.averaged(model.forward, len(model.classes), _views(parsed.tta, recipe))

    @tf.function(autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return mean(images, tf.zeros([tf.shape(images)[0]], tf.int32))

    return dataclasses.replace(model, probabilities=probabilities, trunk=None, upper=None)


def _views(kind: str | int, recipe: Recipe | None) -> TestTimeViews:
    from engine.inference import tta

    changes = augment.compose(recipe.augment if recipe else ())
    return tta.views(kind, changes, recipe.seed if recipe else 0)
