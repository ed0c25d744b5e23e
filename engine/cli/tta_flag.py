"""`--tta`, the flag of test-time augmentation, for every program that predicts."""

from __future__ import annotations

from typing import Any

from absl import flags

from engine.cli.flag_types import Number

FLIP = "flip"  # as in `engine.inference.tta`, which imports TensorFlow


class FlipOrViews(Number):
    """`flip`, or a number of augmentation views."""

    def __init__(self) -> None:
        super().__init__(int, 2)

    def parse(self, argument: str | float) -> Any:
        try:
            return FLIP if argument == FLIP else super().parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}, or {FLIP}") from None


def define(values: flags.FlagValues) -> None:
    text = (
        "test-time augmentation, the mean over views of an image: flip for the image and its "
        "mirror image; K, 2 or more, for the image and K - 1 draws of the run's own augmentation"
    )
    flags.DEFINE(FlipOrViews(), "tta", None, text, flag_values=values)
