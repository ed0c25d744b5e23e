"""Checks a recipe's names and options against the tables of backbones, optimizers and schedules.

The tables import no TensorFlow, so that a mistyped flag is reported at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from engine.core.errors import UserError, choose, nearest, require
from engine.core.recipe import Phase, Recipe, share_of_layers
from engine.models.backbones import BACKBONES, Backbone
from engine.optim.averages import parse_average
from engine.optim.optimizers import OPTIMIZERS, SOLVER
from engine.optim.schedules import SCHEDULES, learning_rate


class AllowedValues(NamedTuple):
    """The values of an option: of one of these types, from 0 to `maximum`."""

    types: tuple[type, ...]
    maximum: float
    description: str


FLAG = AllowedValues((bool,), 1, "true or false")
COUNT = AllowedValues((int,), 1e9, "a whole number from 0 to 1e9")
# Every other float that an optimizer or a schedule takes is a fraction or a factor that reduces.
FRACTION = AllowedValues((int, float), 1, "a number from 0 to 1")
AMOUNT = AllowedValues((int, float), 1e9, "a number from 0 to 1e9")

WARMUP = {"warmup_steps": COUNT, "warmup_epochs": AMOUNT}
NAMED = {"l2": AMOUNT}
MAX_FOLDS = 20


class PhaseOptions(NamedTuple):
    """A phase's options, by what takes them."""

    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    warmup: dict[str, Any]


def check_recipe(recipe: Recipe) -> None:
    """Checks that every name of the recipe exists and every option is taken.

    Raises:
      UserError: the first that does not or is not.
    """
    backbone = choose(recipe.backbone, BACKBONES, "backbone")
    for phase in recipe.phases:
        _check_trainable(backbone, phase)
        phase_options(phase)
        parse_average(phase)
        if phase.optimizer == SOLVER:
            _check_solver(recipe, phase)


def _check_trainable(backbone: Backbone, phase: Phase) -> None:
    """Refuses what surely is no stage and no layer; of most networks only the built one can tell.

    Raises:
      UserError: it is none.
    """
    if backbone.layers is None or share_of_layers(phase.trainable) is not None:
        return
    names = ["head", "all", *backbone.stages.split("|")]
    if phase.trainable not in names and not re.fullmatch(backbone.layers, phase.trainable):
        hint = nearest(phase.trainable, names)
        raise UserError(
            f"phase {phase.name!r}: trainable={phase.trainable}: no stage and no layer has that "
            f"name{hint}; allowed: {', '.join(names)}, or a layer"
        )


def _check_solver(recipe: Recipe, phase: Phase) -> None:
    """Refuses what a solved head has no use for.

    Raises:
      UserError: the recipe or the phase has it.
    """
    where = f"phase {phase.name!r}: optimizer={SOLVER}"
    require(
        not recipe.hidden_units,
        f"{where} solves a dense head, and hidden_units={recipe.hidden_units} puts a layer before "
        "it; omit --hidden_units, or choose another optimizer",
    )
    taken = ("name", "optimizer", "options")
    for field in dataclasses.fields(phase):
        value = getattr(phase, field.name)
        unused = field.name not in taken and value not in (field.default, 0)
        require(
            not unused,
            f"{where} with {field.name}={value}; allowed: trainable=head, epochs=1, l2, folds; "
            "omit it, or choose another optimizer",
        )
    folds = phase.options.get("folds", 2)
    require(
        2 <= folds <= MAX_FOLDS,
        f"phase {phase.name!r}: folds={folds}; allowed: a whole number from 2 to {MAX_FOLDS}",
    )
    extra = phase.options.keys() - {"l2", "folds"}
    require(
        not extra, f"{where} with {', '.join(sorted(extra))}; allowed: l2, folds; omit the others"
    )


def phase_options(phase: Phase) -> PhaseOptions:
    """Checks a phase's options and returns them by what takes them.

    Raises:
      UserError: no such optimizer or schedule, or an option that neither takes.
    """
    where = f"phase {phase.name!r}:"
    takers = (
        _parameters(choose(phase.optimizer, OPTIMIZERS, f"{where} optimizer")),
        _parameters(choose(phase.schedule, SCHEDULES, f"{where} schedule")),
        WARMUP,
    )
    allowed = {key: values for taker in takers for key, values in taker.items()}
    for key, value in phase.options.items():
        if key not in allowed:
            raise _unknown_option(where, key, allowed)
        types, maximum, description = allowed[key]
        if type(value) not in types or not 0 <= value <= maximum:
            raise UserError(f"{where} {key}={value!r}; allowed: {description}")
    if all(key in phase.options for key in WARMUP):
        raise UserError(f"{where} warmup_steps and warmup_epochs; give one of them")
    return PhaseOptions(
        *({k: v for k, v in phase.options.items() if k in taker} for taker in takers)
    )


def _unknown_option(where: str, key: str, allowed: Iterable[str]) -> UserError:
    """The key may also be a misspelt field of every phase."""
    fields = [name for name in Phase.__dataclass_fields__ if name not in ("name", "options")]
    keys = [*fields, *allowed]
    return UserError(
        f"{where} option {key!r} does not exist{nearest(key, keys)}; allowed: {', '.join(keys)}"
    )


def _parameters(function: Callable) -> dict[str, AllowedValues]:
    """The function's parameters with a default; the default's type decides what they allow."""
    parameters = inspect.signature(function).parameters.values()
    by_type = {bool: FLAG, int: COUNT, float: FRACTION}
    return {
        p.name: NAMED.get(p.name, by_type[type(p.default)])
        for p in parameters
        if p.default is not p.empty
    }


def phase_learning_rate(phase: Phase, steps_per_epoch: int) -> Callable[[int], float]:
    """Returns the learning rate as a function of the step, counted from the phase's first."""
    options = phase_options(phase)
    if phase.optimizer == SOLVER:
        return lambda step: 0.0
    epochs = options.warmup.get("warmup_epochs", 0)
    warmup_steps = options.warmup.get("warmup_steps", round(epochs * steps_per_epoch))
    steps = phase.epochs * steps_per_epoch
    return learning_rate(
        SCHEDULES[phase.schedule], phase.learning_rate, steps, options.schedule, warmup_steps
    )
