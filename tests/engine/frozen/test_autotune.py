"""Decisions: made once, written down, read again; and made anew where they can't be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import digest
from engine.frozen import precision
from engine.frozen.autotune import PhasePlans
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.precision import ComputeMode
from engine.runs.directory import RunDirectory
from tests.engine.small_runs import small_recipe

PROGRAMS = [ComputeMode(), ComputeMode("mixed_bfloat16")]
RECIPE = small_recipe("nowhere")
KEEP = CacheDecision(4, 4, True, "the trunk's outputs")


class Notes:
    def __init__(self):
        self.lines = []

    def note(self, line):
        self.lines.append(line)


class Network:
    """Programs that count how often they were made; bfloat16's answer is far off, if wished."""

    def __init__(self, error: float = 0.0) -> None:
        self.made, self.error = [], error

    def __call__(self, program: ComputeMode):
        self.made.append(program)
        off = self.error * (program.dtype == "bfloat16")
        return lambda inputs: [tf.constant(inputs) + off]


def opened(run: RunDirectory) -> PhasePlans:
    return PhasePlans(run.plan, RECIPE)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path)


def asked(decisions, what="trunk", network=None, programs=PROGRAMS, notes=None):
    inputs = np.ones((3, 2), np.float32)
    return decisions.program(
        what, programs, network or Network(), lambda: inputs, (notes or Notes()).note
    )


def unasked(*_):
    raise AssertionError("made anew")


def test_programs_are_tried_once_and_the_trials_written_down(run):
    network = Network()
    first = asked(opened(run), network=network)
    assert network.made == PROGRAMS
    again, notes = opened(run), Notes()
    for _ in range(2):
        assert again.program("trunk", PROGRAMS, unasked, unasked, notes.note) == first
    assert notes.lines == [f"trunk: {first.program}, as {run.plan} has it"], "once"
    assert [trial.program for trial in again.trials["trunk"]] == PROGRAMS


def test_each_cut_and_tail_has_trials_of_its_own(run):
    decisions, network = opened(run), Network()
    for what in ("trunk", "tail", "trunk"):
        asked(decisions, what, network)
    assert network.made == 2 * PROGRAMS
    assert list(opened(run).trials) == ["trunk", "tail"]


def test_the_choice_is_that_of_precision(run):
    found = asked(opened(run), network=Network(error=1.0))
    assert found.program == PROGRAMS[0], "the other is unsound"
    values = json.loads(run.plan.read_text())
    assert values["chosen"] == {"trunk": "float32"}
    assert values["recipe"] == digest(RECIPE)
    assert values["tolerance"] == precision.TOLERANCE
    assert values["trials"]["trunk"][1]["distance"] == pytest.approx(1.0)


def test_what_is_kept_is_read_again_beside_the_trials(run):
    decisions = opened(run)
    decisions.keep("transfer", KEEP)
    asked(decisions)
    decisions.keep("tune", CacheDecision(None, 0, False, "cache=none"))
    again = opened(run)
    assert again.keeps == {"transfer": KEEP, "tune": CacheDecision(None, 0, False, "cache=none")}
    assert list(again.trials) == ["trunk"]


def test_the_user_is_told_where_there_was_a_choice(run):
    notes = Notes()
    asked(opened(run), "frozen part below top", notes=notes)
    assert "frozen part below top" in notes.lines[0]
    assert ["float32" in notes.lines[1], "bfloat16" in notes.lines[2]] == [True, True]
    again = Notes()
    asked(opened(run), "frozen part below top", notes=again)
    assert len(again.lines) == 1, "that it was tried before"
    for _ in range(2):
        asked(opened(run), "other", programs=PROGRAMS[:1], notes=again)
    assert len(again.lines) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"trials": {}}', '{"trials": {}, "keeps": {"a": {"slots": 1}}}',
        '{"trials": {"a": [{"program": {"policy": "float32", "speed": 1}}]}, "keeps": {}}',
        '{"trials": {"trunk": 3}, "keeps": {}}', '{"trials": [], "keeps": {}}',
        "[" * 10**5, '{"trials": {"trunk": []}, "keeps": {}}',
    ],
)  # fmt: skip
def test_a_plan_that_can_not_be_read_is_none(run, text):
    run.plan.write_text(text)
    decisions = opened(run)
    assert (decisions.trials, decisions.keeps) == ({}, {})
    asked(decisions)
    assert list(opened(run).trials) == ["trunk"]


@pytest.mark.parametrize(
    "change",
    [{"policy": "half"}, {"xla": 1}, {"images_per_second": 0}, {"distance": "far"}, {"slots": -1},
     {"views": 0}, {"views": "all"}, {"reason": None}],
)  # fmt: skip
def test_nor_is_one_that_says_what_no_run_decides(run, change):
    """It would end the run where the decision is used."""
    program = {"policy": "float32", "xla": False}
    trial = {"program": program, "images_per_second": 1.0, "distance": 0.0}
    keep = {"views": 4, "slots": 4, "validation": True, "reason": "a"}
    for part in (program, trial, keep):
        part |= {key: value for key, value in change.items() if key in part}
    run.plan.write_text(json.dumps({"trials": {"trunk": [trial]}, "keeps": {"a": keep}}))
    assert not opened(run).trials


def test_bytes_that_are_no_text_are_none(run):
    run.plan.write_bytes(b"\xff\xfe\x00")
    assert opened(run).trials == {}
