"""A model for pictures by the hundred thousand: in the program that is fastest on them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from engine import precision
from engine.precision import FLOAT32, Program
from engine.prediction import Group, Predictor
from engine.trunk import specialise

# Pictures. To compile two programs and try them took four seconds on two cores, and bfloat16 saves
# one or two milliseconds a picture: below this number float32 is ready sooner.
WORTH_TRIALS = 2000
# Groups. Where nothing in these can be read, nobody is to wait longer for the first rows.
MOST_LOOKED_AT = 4


def fastest(
    model: Predictor, groups: Iterator[Group], count: int, say: Callable[[str], None]
) -> tuple[Predictor, Iterable[Group]]:
    """The model in the program that has so many pictures answered soonest, and all the groups.

    count: of the pictures. say: told in lines what was tried on the first of them.
    """
    programs = precision.programs()
    if count < WORTH_TRIALS or len(programs) == 1 or model.trunk is None:
        return model, groups
    first = []
    for group in itertools.islice(groups, MOST_LOOKED_AT):
        first.append(group)
        if len(images := group[2]):
            model = _tried(model, programs, images, say)
            break
    return model, itertools.chain(first, groups)


def _tried(
    model: Predictor, programs: list[Program], images: Any, say: Callable[[str], None]
) -> Predictor:
    made = {program: specialise(model.trunk, program) for program in programs}
    done = precision.trials(programs, made.__getitem__, tf.cast(images, tf.float32))
    say("the network, tried on a batch of your pictures:")
    for line in precision.table(done):
        say(line)
    chosen = precision.best(done).program
    return in_program(model, chosen, made[chosen])


def in_program(
    model: Predictor, program: Program, trunk: Callable[[Any], list] | None = None
) -> Predictor:
    """The model in this program, but for its last layers, which compute in float32.

    In plain float32 it is the model as it is: specialised it is no faster, and its numbers are to
    be the same whether that was tried or not.

    trunk: what `specialise` made for it, where that was done before.
    """
    if program == FLOAT32 or model.upper is None:
        return model
    lower, last = trunk or specialise(model.trunk, program), model.upper

    @tf.function(autograph=False)
    def upper(features: tf.Tensor) -> tf.Tensor:
        return last(tf.cast(features, tf.float32))

    # The trunk is called as it is: within another function it would be compiled once more.
    def probabilities(images: Any) -> tf.Tensor:
        return upper(lower(tf.cast(images, tf.float32))[0])

    return dataclasses.replace(model, probabilities=probabilities, program=program)
