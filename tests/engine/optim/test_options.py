"""Every option of a phase has a taker, and a warm-up may be given in steps or epochs."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from engine.core.errors import UserError
from engine.core.recipe import Phase, Recipe, digest, from_json, parse_phase, to_json
from engine.optim import options as recipes
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.schedules import SCHEDULES
from tests.engine.small import recipe


def defaults(function) -> dict:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_option_of_the_tables_is_taken(optimizer, schedule):
    mine, theirs = defaults(OPTIMIZERS[optimizer]), defaults(SCHEDULES[schedule])
    assert not mine.keys() & theirs.keys(), "an option would have two takers"
    assert not (mine.keys() | theirs.keys()) & Phase.__dataclass_fields__.keys()
    phase = Phase("p", optimizer=optimizer, schedule=schedule, options={**mine, **theirs})
    assert recipes.options(phase) == (mine, theirs, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("momentun=0.9", r"option 'momentun' does not exist \(did you mean 'momentum'\?\)"),
        ("learning_rat=1", r"did you mean 'learning_rate'\?\)"),
        ("beta_1=0.9", "option 'beta_1' does not exist"),
        ("optimizer=sgdm", r"optimizer 'sgdm' does not exist \(did you mean 'sgd'\?\).*lion"),
        ("schedule=cosin", r"schedule 'cosin' does not exist \(did you mean 'cosine'\?\)"),
        ("momentum=1.5", "momentum=1.5; allowed: a number from 0 to 1"),
        ("momentum=-0.1", "momentum=-0.1; allowed: a number from 0 to 1"),
        ("momentum=much", "momentum='much'; allowed: a number from 0 to 1"),
        ("momentum=true", "momentum=True; allowed"),
        ("nesterov=1", "nesterov=1; allowed: true or false"),
        ("schedule=step, drops=2.5", "drops=2.5; allowed: a whole number"),
        ("warmup_steps=2.5", "warmup_steps=2.5; allowed: a whole number"),
        ("warmup_epochs=-1", "warmup_epochs=-1; allowed: a number"),
        ("warmup_steps=3, warmup_epochs=1", "give one of them"),
    ],
)
def test_an_option_without_a_taker_is_an_error(options, message):
    optimizer = "" if "optimizer=" in options else "optimizer=sgd, "
    with pytest.raises(UserError, match=f"phase 'tune'.*{message}"):
        recipes.options(parse_phase(f"tune({optimizer}{options})"))


def test_an_option_from_a_tampered_file_is_an_error_too():
    with pytest.raises(UserError, match="option 'epochs'"):
        recipes.options(Phase("tune", options={"epochs": 3}))
    with pytest.raises(UserError, match="momentum=nan"):
        recipes.options(Phase("tune", options={"momentum": float("nan")}))


def test_a_recipe_is_checked_whole():
    recipes.check(recipe())
    with pytest.raises(UserError, match=r"backbone .*did you mean 'mobilenet_v2'"):
        recipes.check(recipe(backbone="mobilenet_v22"))
    with pytest.raises(UserError, match="phase 'b'"):
        recipes.check(recipe(phases=(Phase("a"), parse_phase("b(drops=1)"))))


def rates(text: str, steps_per_epoch: int = 4) -> list[float]:
    phase = parse_phase(text)
    rate = recipes.rate(phase, steps_per_epoch)
    return [rate(step) for step in range(phase.epochs * steps_per_epoch)]


def test_warm_up_counts_in_steps_or_epochs():
    assert rates("p(epochs=2, learning_rate=8, warmup_steps=2)") == [4, 8, 8, 8, 8, 8, 8, 8]
    assert rates("p(epochs=2, learning_rate=8, warmup_epochs=1)") == [2, 4, 6, 8, 8, 8, 8, 8]
    assert rates("p(epochs=2, learning_rate=8, warmup_epochs=0.5)") == [4, 8, 8, 8, 8, 8, 8, 8]


def test_the_schedule_begins_after_the_warm_up_with_its_options():
    found = rates("p(epochs=2, learning_rate=2, schedule=linear, end=0.5, warmup_steps=3)")
    assert found == pytest.approx([2 / 3, 4 / 3, 2, 2, 1.75, 1.5, 1.25, 1])


def test_a_phase_without_epochs_has_a_rate_that_nobody_asks_for():
    assert rates("p(epochs=0, schedule=cosine)") == []


def test_a_digest_is_of_the_meaning_and_not_of_the_order_of_options():
    one = recipe(phases=(parse_phase("a(optimizer=sgd, momentum=0.9, warmup_steps=3)"),))
    same = recipe(phases=(parse_phase("a(warmup_steps=3, momentum=0.9, optimizer=sgd)"),))
    others = (
        recipe(phases=(parse_phase("a(optimizer=sgd, momentum=0.8, warmup_steps=3)"),)),
        dataclasses.replace(one, seed=1),
    )
    assert digest(one) == digest(same)
    assert digest(one) == digest(from_json(Recipe, to_json(one)))
    assert not {digest(other) for other in others} & {digest(one)}
