"""What a recipe's words mean: every name has an entry, every option has a taker.

Reads the tables, which import no TensorFlow, so that a mistyped flag is answered at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from engine.backbones import BACKBONES
from engine.optimizers import OPTIMIZERS
from engine.schedules import SCHEDULES, learning_rate
from engine.specs import Phase, Recipe, UserError, choose

WARMUP = ("warmup_steps", "warmup_epochs")


class Options(NamedTuple):
    """A phase's options, divided among those who take them."""

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    warmup: dict[str, float]


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
        dict.fromkeys(WARMUP, (int, float)),
    )
    fields = {name: None for name in Phase.__dataclass_fields__ if name not in ("name", "options")}
    everything = fields | {key: None for taker in takers for key in taker}
    for key, value in phase.options.items():
        choose(key, everything, f"{where} option")
        kinds = next(taker[key] for taker in takers if key in taker)
        if type(value) not in kinds or (type(value) is not bool and value < 0):
            raise UserError(f"{where} {key}={value!r}; allowed: {kinds[-1].__name__}, not negative")
    if all(key in phase.options for key in WARMUP):
        raise UserError(f"{where} warmup_steps and warmup_epochs; give one of them")
    shares = [{k: v for k, v in phase.options.items() if k in taker} for taker in takers]
    return Options(*shares)


def _keywords(function: Callable) -> dict[str, tuple[type, ...]]:
    """Names of the parameters that have a default, with the types that they take."""
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: type(p.default) for p in parameters if p.default is not p.empty}
    return {name: (int, float) if kind is float else (kind,) for name, kind in known.items()}


def rate(phase: Phase, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate of each step of the phase, counted from the phase's first."""
    given = options(phase)
    epochs = given.warmup.get("warmup_epochs", 0)
    warmup_steps = int(given.warmup.get("warmup_steps", round(epochs * steps_per_epoch)))
    steps = phase.epochs * steps_per_epoch
    return learning_rate(
        SCHEDULES[phase.schedule], phase.learning_rate, steps, given.schedule, warmup_steps
    )
