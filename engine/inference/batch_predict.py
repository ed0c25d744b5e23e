"""A model for images by the hundred thousand: in the program that is fastest on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from engine.frozen import precision
from engine.inference import predictor
from engine.inference.predict import Group
from engine.inference.predictor import Predictor

# Images. To compile two programs and try them took four seconds on two cores, and bfloat16 saves
# one or two milliseconds an image: below this number float32 is ready sooner.
WORTH_TRIALS = 2000
# Groups. Where nothing in these can be read, nobody is to wait longer for the first rows.
MOST_LOOKED_AT = 4


def fastest(
    model: Predictor, groups: Iterator[Group], count: int, say: Callable[[str], None]
) -> tuple[Predictor, Iterable[Group]]:
    """The model in the program that has so many images answered soonest, and all the groups.

    count: of the images. say: told in lines what was tried on the first of them.
    """
    if count < WORTH_TRIALS or len(precision.available_modes()) == 1 or model.trunk is None:
        return model, groups
    first = []
    for group in itertools.islice(groups, MOST_LOOKED_AT):
        first.append(group)
        if len(images := group[2]):
            say("the network, tried on a batch of your images:")
            model = predictor.fastest(model, images, say)
            break
    return model, itertools.chain(first, groups)
