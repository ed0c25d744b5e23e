"""Trials of earlier runs are remembered for the same machine, network and shape, and no other."""

from __future__ import annotations

import dataclasses

import pytest

from engine.core.recipe import Phase
from engine.frozen import trial_memory, trunk
from engine.frozen.precision import ComputeMode, PrecisionTrial
from engine.frozen.trial_memory import TrialMemory
from tests.engine import small

MODES = [ComputeMode(), ComputeMode("mixed_bfloat16")]
TRIALS = (PrecisionTrial(MODES[0], 50.0, 0.0), PrecisionTrial(MODES[1], 90.0, 0.03, 0.1))
HEAD, TOP = Phase("transfer", "head"), Phase("tune", "top")
RECIPE = small.recipe(image_size=(small.SIDE, small.SIDE))


@pytest.fixture
def memory(tmp_path) -> TrialMemory:
    found = TrialMemory(tmp_path / "cache", RECIPE, 3)
    found.write(HEAD, "trunk", TRIALS)
    return found


def test_trials_are_read_as_they_were_written(memory):
    renamed = dataclasses.replace(HEAD, name="other", epochs=9)
    assert memory.read(HEAD, "trunk", MODES) == memory.read(renamed, "trunk", MODES) == TRIALS


def test_other_network_shape_part_and_modes_have_no_trials(memory):
    for change in ({"image_size": (64, 64)}, {"batch_size": 7}, {"backbone": "resnet50"}):
        other = dataclasses.replace(memory, recipe=dataclasses.replace(RECIPE, **change))
        assert other.read(HEAD, "trunk", MODES) == ()
    assert memory.read(TOP, "trunk", MODES) == memory.read(HEAD, "tail", MODES) == ()
    assert memory.read(HEAD, "trunk", [*MODES, ComputeMode(xla=True)]) == ()


@pytest.mark.parametrize("what", ["describe_cpu", "describe_software"])
def test_other_machine_and_software_have_no_trials(memory, monkeypatch, what):
    monkeypatch.setattr(trial_memory.hardware, what, lambda *_: {"another": "one"})
    assert memory.read(HEAD, "trunk", MODES) == ()


@pytest.mark.parametrize("text", ["", "{}", "[[", '{"trials": [1]}', '{"trials": []}'])
def test_damaged_file_is_forgotten(memory, text):
    memory.path(HEAD, "trunk", MODES).write_text(text)
    assert memory.read(HEAD, "trunk", MODES) == ()


def test_memory_without_a_folder_remembers_nothing(tmp_path):
    memory = TrialMemory(None, RECIPE, 3)
    memory.write(HEAD, "trunk", TRIALS)
    assert memory.read(HEAD, "trunk", MODES) == ()


def test_only_the_remembered_mode_is_compiled_ahead(memory, monkeypatch):
    monkeypatch.setattr(trunk, "recipe_modes", lambda _: MODES)
    compiled = trunk.compile_ahead(small.network(), RECIPE, (HEAD,), memory=memory)
    assert list(compiled) == [("transfer", MODES[1])]
