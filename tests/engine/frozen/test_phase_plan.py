"""plan.json: measured once, written down, read again; and measured again where it is unreadable."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import Phase, digest
from engine.frozen import precision
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.phase_plan import PARTS, PhasePlan, PlanFile
from engine.frozen.precision import ComputeMode
from engine.frozen.trial_memory import TrialMemory
from tests.engine import small

MODES = [ComputeMode(), ComputeMode("mixed_bfloat16")]
HEAD, TOP, AGAIN = Phase("transfer", "head"), Phase("tune", "top"), Phase("more", "top")
RECIPE = small.recipe(phases=(HEAD, TOP, AGAIN))
CACHED = CacheDecision(4, 4, True, "the trunk's outputs")
INPUTS = np.ones((3, 2), np.float32)


class Network:
    """Counts how often it is compiled; bfloat16's output is off by `error`."""

    def __init__(self, error: float = 0.0) -> None:
        self.compiled, self.error = [], error

    def __call__(self, mode: ComputeMode):
        self.compiled.append(mode)
        off = self.error * (mode.dtype == "bfloat16")
        return lambda inputs: [tf.constant(inputs) + off]


class Opened:
    """The plan file, opened; `lines` holds what it logged."""

    def __init__(self, path, memory=None) -> None:
        self.path, self.lines = path, []
        self.file = PlanFile(path, RECIPE, self.lines.append, memory)

    def trial(self, phase=HEAD, part="trunk", network=None, modes=MODES):
        return self.file.trial(phase, part, modes, network or Network(), lambda: INPUTS)


def unexpected(*_):
    raise AssertionError("measured or decided again")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plan.json"


def test_reopened_plan_file_measures_and_decides_nothing(path):
    first, network = Opened(path), Network()
    trials = [first.trial(HEAD, part, network) for part in PARTS]
    assert network.compiled == 2 * MODES
    assert first.file.cache(HEAD, lambda: CACHED) == CACHED
    again = Opened(path)
    assert [again.trial(HEAD, part, unexpected) for part in PARTS] == trials
    assert again.file.cache(HEAD, unexpected) == CACHED
    assert again.lines == [
        f"frozen layers of phase transfer: {trials[0].mode}, as {path} has it",
        f"trained layers of phase transfer: {trials[1].mode}, as {path} has it",
    ]
    assert again.file.plans == first.file.plans


def test_plan_of_another_run_records_what_the_first_one_measured(path, tmp_path):
    memory = TrialMemory(tmp_path / "cache", RECIPE)
    first, again = (Opened(tmp_path / name, memory) for name in ("a.json", "b.json"))
    best = first.trial()
    assert again.trial(network=unexpected) == best
    assert again.file.plans == first.file.plans
    assert again.lines == [
        f"frozen layers of phase transfer: {best.mode}, as an earlier run on this machine tried"
    ]


@pytest.mark.parametrize("part", PARTS)
def test_phases_cut_at_the_same_place_share_trials(path, part):
    opened, network = Opened(path), Network()
    for phase in (HEAD, TOP, AGAIN):
        opened.trial(phase, part, network)
    assert network.compiled == 2 * MODES
    trials = {name: getattr(plan, part) for name, plan in Opened(path).file.plans.items()}
    assert trials["tune"] == trials["more"] != trials["transfer"]


def test_chosen_mode_is_within_tolerance(path):
    assert Opened(path).trial(network=Network(error=1.0)).mode == MODES[0]
    values = json.loads(path.read_text())
    assert values["chosen"] == {"transfer": {"trunk": "float32"}}
    assert values["recipe"] == digest(RECIPE)
    assert values["tolerance"] == precision.TOLERANCE
    assert values["phases"]["transfer"]["trunk"][1]["distance"] == pytest.approx(1.0)


def test_trials_are_logged_only_where_there_is_a_choice(path):
    opened = Opened(path)
    opened.trial()
    first, *lines = opened.lines
    assert first == "frozen layers of phase transfer, tried on a batch of your images:"
    assert ["float32" in lines[0], "bfloat16" in lines[1]] == [True, True]
    opened.lines.clear()
    for _ in range(2):
        opened.trial(TOP, modes=MODES[:1])
    assert opened.lines == []


MODE = {"policy": "float32", "xla": False}
TRIAL = {"mode": MODE, "images_per_second": 1.0, "distance": 0.0}
CACHE = {"views": 4, "slots": 4, "validation": True, "reason": "a"}


def plan_text(**changes) -> bytes:
    """A plan file's text, with some keys changed."""
    mode, trial, cache = (
        part | {key: value for key, value in changes.items() if key in part}
        for part in (MODE, TRIAL, CACHE)
    )
    plan = {"trunk": [trial | {"mode": mode}], "tail": [], "cache": cache}
    return json.dumps({"phases": {"transfer": plan}}).encode()


def test_plan_text_without_changes_is_read(path):
    path.write_bytes(plan_text())
    assert Opened(path).file[HEAD].cache == CacheDecision(4, 4, True, "a")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b'{"trials": {}}', b'{"phases": {"a": {"slots": 1}}}',
        b'{"phases": {"a": {"trunk": 3}}}', b'{"phases": []}', b'{"phases": null}', b'"phases"',
        b'{"phases": {"a": {"trunk": [{"mode": {"policy": "float32", "speed": 1}}]}}}',
        b"[" * 10**5, b"\xff\xfe\x00",
        plan_text(policy="half"), plan_text(xla=1), plan_text(images_per_second=0),
        plan_text(distance="far"), plan_text(slots=-1), plan_text(views=0),
        plan_text(views="all"), plan_text(reason=None),
    ],
)  # fmt: skip
def test_unreadable_plan_file_counts_as_empty(path, text):
    path.write_bytes(text)
    opened = Opened(path)
    assert opened.file.plans == {}
    assert opened.file[HEAD] == PhasePlan()
    opened.trial()
    assert list(Opened(path).file.plans) == ["transfer"]
