"""What a recipe's words mean: every name has an entry, every option has a taker.

Reads the tables, which import no TensorFlow, so that a mistyped flag is answered at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from engine.core.errors import UserError, choose, nearest
from engine.core.recipe import Phase, Recipe
from engine.models.backbones import BACKBONES
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.schedules import SCHEDULES, learning_rate


class Allowed(NamedTuple):
    """What an option may be: of one of these types, and 0 to `most`."""

    kinds: tuple[type, ...]
    most: float
    words: str


FLAG = Allowed((bool,), 1, "true or false")
COUNT = Allowed((int,), 1e9, "a whole number from 0 to 1e9")
# Every fraction that an optimizer or a schedule takes is a share or a factor that lessens.
SHARE = Allowed((int, float), 1, "a number from 0 to 1")
LENGTH = Allowed((int, float), 1e9, "a number from 0 to 1e9")

WARMUP = {"warmup_steps": COUNT, "warmup_epochs": LENGTH}


class Options(NamedTuple):
    """A phase's options, divided among those who take them."""

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    warmup: dict[str, Any]


def check(recipe: Recipe) -> None:
    """Nothing, where every name of the recipe has an entry and every option a taker.

    Raises:
      UserError: the first that has not.
    """
    choose(recipe.backbone, BACKBONES, "backbone")
    for phase in recipe.phases:
        options(phase)


def options(phase: Phase) -> Options:
    """The phase's options by taker.

    Raises:
      UserError: no such optimizer or schedule, or an option that neither takes.
    """
    where = f"phase {phase.name!r}:"
    takers = (
        _keywords(choose(phase.optimizer, OPTIMIZERS, f"{where} optimizer")),
        _keywords(choose(phase.schedule, SCHEDULES, f"{where} schedule")),
        WARMUP,
    )
    allowed = {key: values for taker in takers for key, values in taker.items()}
    for key, value in phase.options.items():
        if key not in allowed:
            raise _unknown(where, key, allowed)
        kinds, most, words = allowed[key]
        if type(value) not in kinds or not 0 <= value <= most:
            raise UserError(f"{where} {key}={value!r}; allowed: {words}")
    if all(key in phase.options for key in WARMUP):
        raise UserError(f"{where} warmup_steps and warmup_epochs; give one of them")
    shares = [{k: v for k, v in phase.options.items() if k in taker} for taker in takers]
    return Options(*shares)


def _unknown(where: str, key: str, allowed: Iterable[str]) -> UserError:
    """What was meant may as well be a key that every phase has."""
    fields = [name for name in Phase.__dataclass_fields__ if name not in ("name", "options")]
    every = [*fields, *allowed]
    return UserError(
        f"{where} option {key!r} does not exist{nearest(key, every)}; allowed: {', '.join(every)}"
    )


def _keywords(function: Callable) -> dict[str, Allowed]:
    """Names of the parameters that have a default, with what they allow by the default's type."""
    parameters = inspect.signature(function).parameters.values()
    by_type = {bool: FLAG, int: COUNT, float: SHARE}
    return {p.name: by_type[type(p.default)] for p in parameters if p.default is not p.empty}


def rate(phase: Phase, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of each step of the phase, counted from the phase's first."""
    given = options(phase)
    epochs = given.warmup.get("warmup_epochs", 0)
    warmup_steps = given.warmup.get("warmup_steps", round(epochs * steps_per_epoch))
    steps = phase.epochs * steps_per_epoch
    return learning_rate(
        SCHEDULES[phase.schedule], phase.learning_rate, steps, given.schedule, warmup_steps
    )
