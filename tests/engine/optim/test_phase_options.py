"""Options of a phase: each is taken by one function; a warm-up is given in steps or epochs."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from engine.core.errors import UserError
from engine.core.recipe import Phase, Recipe, digest, from_json, parse_phase, to_json
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.phase_options import check_recipe, phase_learning_rate, phase_options
from engine.optim.schedules import SCHEDULES
from tests.engine.small import recipe


def defaults(function) -> dict:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_option_of_the_tables_is_taken_once(optimizer, schedule):
    of_optimizer, of_schedule = defaults(OPTIMIZERS[optimizer]), defaults(SCHEDULES[schedule])
    assert not of_optimizer.keys() & of_schedule.keys()
    assert not (of_optimizer.keys() | of_schedule.keys()) & Phase.__dataclass_fields__.keys()
    options = {**of_optimizer, **of_schedule}
    phase = Phase("p", optimizer=optimizer, schedule=schedule, options=options)
    assert phase_options(phase) == (of_optimizer, of_schedule, {})


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
def test_unknown_option_or_value_is_refused(options, message):
    optimizer = "" if "optimizer=" in options else "optimizer=sgd, "
    with pytest.raises(UserError, match=f"phase 'tune'.*{message}"):
        phase_options(parse_phase(f"tune({optimizer}{options})"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 3}, "option 'epochs'"), ({"momentum": float("nan")}, "momentum=nan")],
)
def test_option_of_a_tampered_file_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        phase_options(Phase("tune", options=options))


def test_check_recipe_covers_backbone_and_every_phase():
    check_recipe(recipe())
    with pytest.raises(UserError, match=r"backbone .*did you mean 'mobilenet_v2'"):
        check_recipe(recipe(backbone="mobilenet_v22"))
    with pytest.raises(UserError, match="phase 'b'"):
        check_recipe(recipe(phases=(Phase("a"), parse_phase("b(drops=1)"))))


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ("emma", r"average 'emma' does not exist \(did you mean 'ema'\?\); allowed: ema, soup"),
        ("ema(1)", r"average=ema\(1\): decay=1.0; allowed: a number, 0 or more, below 1"),
        ("ema(much)", "decay='much'; allowed: a number"),
        ("ema(0.9, 2)", "warmup=2; allowed: true or false"),
        ("soup(1)", "epochs=1; allowed: a whole number, 2 to 100"),
        ("soup(3, 4)", r"too many positional arguments; allowed: soup\(epochs\)"),
    ],
)
def test_unknown_average_or_value_is_refused(average, message):
    with pytest.raises(UserError, match=f"phase 'tune': .*{message}"):
        check_recipe(recipe(phases=(parse_phase(f"tune(average={average})"),)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("trainable=all", "with trainable=all; allowed: trainable=head, epochs=1, l2, folds; omit"),
        ("epochs=2", "with epochs=2"),
        ("learning_rate=0.1", "with learning_rate=0.1"),
        ("schedule=cosine", "with schedule=cosine"),
        ("warmup_epochs=1", "with warmup_epochs; allowed: l2, folds"),
        ("views=2", "with views=2"),
        ("average=ema(0.9)", "with average=ema"),
        ("folds=1", "folds=1; allowed: a whole number from 2 to 20"),
        ("l2=-1", "l2=-1; allowed: a number from 0 to 1e9"),
    ],
)
def test_solved_head_refuses_what_it_does_not_use(options, message):
    check_recipe(recipe(phases=(parse_phase("p(optimizer=lbfgs, l2=3, folds=3)"),)))
    with pytest.raises(UserError, match=message):
        check_recipe(recipe(phases=(parse_phase(f"p(optimizer=lbfgs, {options})"),)))


@pytest.mark.parametrize("trainable", ["block99", "block0", "blok6", "steam", "fc"])
def test_unknown_stage_of_a_packaged_network_is_refused_before_it_is_built(trainable):
    phases = (parse_phase(f"tune(trainable={trainable})"),)
    with pytest.raises(UserError, match=rf"^phase 'tune': trainable={trainable}: no stage and no"):
        check_recipe(recipe(backbone="efficientnet_lite0", phases=phases))
    check_recipe(recipe(backbone="mobilenet_v2", phases=phases))  # which only the network can tell


@pytest.mark.parametrize("trainable", ["block7", "all", "0.5", "block6d_project_conv", "hidden"])
def test_stage_layer_or_share_of_a_packaged_network_is_accepted(trainable):
    phases = (parse_phase(f"tune(trainable={trainable})"),)
    check_recipe(recipe(backbone="efficientnet_lite0", phases=phases))


def test_solved_head_refuses_a_hidden_layer():
    phases = (Phase("p", optimizer="lbfgs"),)
    with pytest.raises(UserError, match="hidden_units=4 puts a layer before it; omit"):
        check_recipe(recipe(phases=phases, hidden_units=4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=2, learning_rate=8, warmup_steps=2", [4, 8, 8, 8, 8, 8, 8, 8]),
        ("epochs=2, learning_rate=8, warmup_epochs=1", [2, 4, 6, 8, 8, 8, 8, 8]),
        ("epochs=2, learning_rate=8, warmup_epochs=0.5", [4, 8, 8, 8, 8, 8, 8, 8]),
        (
            "epochs=2, learning_rate=2, schedule=linear, end=0.5, warmup_steps=3",
            [2 / 3, 4 / 3, 2, 2, 1.75, 1.5, 1.25, 1],
        ),
        ("epochs=0, schedule=cosine", []),
    ],
)
def test_learning_rate_of_a_phase_with_four_steps_an_epoch(text, expected):
    phase = parse_phase(f"p({text})")
    rate = phase_learning_rate(phase, 4)
    assert [rate(step) for step in range(phase.epochs * 4)] == pytest.approx(expected)


def test_digest_ignores_the_order_of_options():
    one = recipe(phases=(parse_phase("a(optimizer=sgd, momentum=0.9, warmup_steps=3)"),))
    same = recipe(phases=(parse_phase("a(warmup_steps=3, momentum=0.9, optimizer=sgd)"),))
    others = (
        recipe(phases=(parse_phase("a(optimizer=sgd, momentum=0.8, warmup_steps=3)"),)),
        dataclasses.replace(one, seed=1),
    )
    assert digest(one) == digest(same)
    assert digest(one) == digest(from_json(Recipe, to_json(one)))
    assert not {digest(other) for other in others} & {digest(one)}
