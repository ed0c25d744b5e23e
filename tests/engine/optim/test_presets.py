"""The rules of the presets: what the table says is what a recipe gets, and what docs show."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from engine.core.call_syntax import parse_calls
from engine.core.recipe import parse_phase, phase_text
from engine.models.backbones import BACKBONES
from engine.optim import phase_options, presets
from pipelines.augment import changes

ROOT = Path(__file__).resolve().parents[3]


def facts(**changes) -> presets.Facts:
    values = {
        "preset": "standard",
        "images": 2640,
        "classes": 81,
        "backbone": "efficientnet_lite0",
        "image_size": (224, 224),
        "memory": 24 * 10**9,
    }
    return presets.Facts(**{**values, **changes})


def fine_tune(*rates, **changes):
    return presets.choose_recipe(facts(**changes), *rates)["phases"][-1]


def test_groceries_get_what_was_measured_on_them():
    chosen = presets.choose_recipe(facts())
    phase = chosen["phases"][1]
    assert (phase.trainable, phase.epochs, phase.learning_rate) == ("0.7", 14, 7e-4)
    assert (phase.optimizer, phase.schedule, phase.weight_decay) == ("adamw", "cosine", 5e-2)
    assert (chosen["dropout"], chosen["label_smoothing"]) == (0.2, 0.1)
    assert chosen["augment"].startswith("rotate(20)|shift(0.15)|shear(0.1)|zoom(0.3)|flip|")


def test_epochs_fall_and_steps_rise_with_the_number_of_images():
    counts = [100, 250, 500, 1_500, 5_000, 20_000, 100_000, 10**6]
    epochs = [fine_tune(images=count, classes=10).epochs for count in counts]
    assert epochs == sorted(epochs, reverse=True)
    steps = [count * number for count, number in zip(counts, epochs, strict=True)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_network_and_size_gets_phases_that_can_be_typed(preset):
    for backbone, images, classes, hidden in itertools.product(
        BACKBONES, (1, 10**4, 10**7), (2, 1000), (0, 64)
    ):
        known = facts(
            preset=preset, images=images, classes=classes, backbone=backbone, hidden_units=hidden
        )
        chosen = presets.choose_recipe(known)
        changes.parse_changes(parse_calls(chosen["augment"]))
        assert len(chosen["phases"]) == 1 + (preset != "quick")
        for phase in chosen["phases"]:
            phase_options.phase_options(phase)
            assert parse_phase(phase_text(phase)) == phase


def test_epochs_and_rate_replace_those_of_the_rules_and_scale_the_rest():
    usual, other = fine_tune(), fine_tune(28, 1.4e-3)
    assert (other.epochs, other.learning_rate) == (2 * usual.epochs, 2 * usual.learning_rate)
    assert other.options["warmup_epochs"] == 2 * usual.options["warmup_epochs"]
    heads = [
        presets.choose_recipe(facts(hidden_units=64), *rates)["phases"][0]
        for rates in ((), (28, 1.4e-3))
    ]
    assert heads[1].epochs == 2 * heads[0].epochs
    assert heads[1].learning_rate == pytest.approx(2 * heads[0].learning_rate)


def test_batches_are_divided_where_the_device_is_small():
    counts = [facts(memory=n * 10**9).microbatches for n in (24, 6, 3, 1)]
    assert counts == [1, 2, 4, 8]
    assert facts(memory=6 * 10**9, image_size=(448, 448)).microbatches == 8


def test_documented_rules_are_those_of_the_table():
    text = (ROOT / "docs" / "recipes.md").read_text()
    assert "\n".join(presets.table()) in text
