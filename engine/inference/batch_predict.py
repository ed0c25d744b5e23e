"""The compute mode for very many images: tried on the first of them, where that pays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from engine.frozen import precision
from engine.inference.predict import ImageGroup
from engine.inference.predictor import Predictor

# Images. Compiling and trying two modes took four seconds on two cores, and bfloat16 saves one or
# two milliseconds an image: below this number float32 finishes sooner.
MIN_IMAGES_FOR_TRIALS = 2000
# If none of the images in so many groups can be read, the first rows should not wait any longer.
MAX_GROUPS_FOR_TRIALS = 4


def choose_fastest_mode(
    model: Predictor, groups: Iterator[ImageGroup], count: int, log: Callable[[str], None]
) -> tuple[Predictor, Iterable[ImageGroup]]:
    """Returns the model in the mode that predicts all images soonest, and all groups.

    Args:
      model: in float32.
      groups: the images.
      count: number of images.
      log: takes the lines that report the trials.
    """
    if (
        count < MIN_IMAGES_FOR_TRIALS
        or len(precision.available_modes()) == 1
        or model.trunk is None
    ):
        return model, groups
    first = []
    for group in itertools.islice(groups, MAX_GROUPS_FOR_TRIALS):
        first.append(group)
        if len(images := group[2]):
            log("trying compute modes of the network on a batch of your images:")
            model = model.in_fastest_mode(images, log)
            break
    return model, itertools.chain(first, groups)
