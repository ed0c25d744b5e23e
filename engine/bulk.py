"""Answers for pictures by the hundred thousand: in the fastest sound program, group by group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine import precision, prediction
from engine.precision import Program
from engine.prediction import Answer, Predictor
from engine.trunk import specialise

PRECISIONS = ("float32", "auto")
# Pictures. To compile two programs and try them took four seconds on two cores, and bfloat16 saves
# one or two milliseconds a picture: below this number float32 is ready sooner.
WORTH_TRIALS = 2000

# Names of some pictures, the problem of each or None, and the images of the others: see
# `pipelines.stream.Group`.
Group = tuple[Sequence[str], Sequence[str | None], Any]


def worth_trials(model: Predictor, kind: str, count: int) -> bool:
    """Whether so many pictures are to be answered in a program that has to be found first.

    kind: of PRECISIONS.
    """
    several = kind == "auto" and count >= WORTH_TRIALS and model.trunk is not None
    return several and len(precision.programs()) > 1


def fastest(
    model: Predictor, images: Any, batch_size: int, say: Callable[[str], None]
) -> Predictor:
    """The model in the program that is fastest on these pictures, uint8 [n, H, W, 3], n > 0.

    say: told in lines what was tried.
    """
    made: dict[Program, Callable] = {}

    def make(program: Program) -> Callable:
        made[program] = specialise(model.trunk, program)
        return made[program]

    pixels = tf.cast(np.resize(np.asarray(images), (batch_size, *model.image_size, 3)), tf.float32)
    done = precision.trials(precision.programs(), make, pixels)
    say("the network, tried on a batch of your pictures:")
    for line in precision.table(done):
        say(line)
    chosen = precision.best(done).program
    return _joined(model, chosen, made[chosen])


def in_program(model: Predictor, program: Program) -> Predictor:
    """The model in this program; as it is where that is float32 and nothing else was ever tried."""
    return _joined(model, program, specialise(model.trunk, program))


def _joined(model: Predictor, program: Program, trunk: Callable[[Any], list]) -> Predictor:
    """The last layers compute in float32, whatever is below them."""

    @tf.function(autograph=False)
    def upper(features: tf.Tensor) -> tf.Tensor:
        return model.upper(tf.cast(features, tf.float32))

    # The trunk is called as it is: within another function it would be compiled once more.
    def probabilities(images: Any) -> tf.Tensor:
        return upper(trunk(tf.cast(images, tf.float32))[0])

    return dataclasses.replace(model, probabilities=probabilities, program=program)


def answer(
    model: Predictor, groups: Iterable[Group], batch_size: int, top: int
) -> Iterator[list[Answer]]:
    """The answers of each group, in its order; nothing of a group stays."""
    for places, problems, images in groups:
        yield prediction.answers(model, places, problems, images, batch_size, top)
