"""A flipped bit in any file of a run changes nothing that a command reads without a message."""

from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path

import pytest

from engine.core.errors import UserError
from engine.frozen.phase_plan import PlanFile
from engine.report import training_log
from engine.runs import checkpoints
from engine.runs.best_model import decision_rule_of, load_best_model
from engine.runs.directory import RunDirectory
from engine.runs.history import read_history
from engine.runs.nan_events import NanEvent, read_nan_events, write_nan_events
from tests.engine.small_runs import Watcher, interrupt, same_end, small_recipe, train

# What a run writes for people and for TensorBoard, and no command reads; the holder's number.
OUTPUTS = {"report", "history.png", "bad_images.csv", "missing_classes.csv", "lock"}


OLDER = "checkpoints/step_000000012_phase_001.npz"


def inputs(place: Path) -> list[Path]:
    """All files of a run that a command reads."""
    names = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return sorted(n for n in names if n.parts[0] not in OUTPUTS and "tfevents" not in n.name)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def observed(place: Path) -> tuple[bytes, list[str]]:
    """Everything that commands read of a run, and what they say."""
    run, said = RunDirectory(place), []
    recipe, (arrays, values) = run.read_recipe(), load_best_model(run)
    state, variables = checkpoints.load(run, said.append)
    plans = PlanFile(run.plan, recipe, said.append).plans
    rows, log = read_history(run), training_log.read(run)
    rule, events = decision_rule_of(run, values), read_nan_events(run)
    read = (recipe, arrays, values, state, variables, plans, rows, log, rule, events)
    return pickle.dumps((*read, run.read_result())), said


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    """A finished run that had a NaN loss."""
    place = Path(shutil.copytree(trained_run.path, tmp_path / "run"))
    write_nan_events(RunDirectory(place), [NanEvent("fine_tune", 13, 10)])
    return place


@pytest.mark.parametrize("flips", [4, pytest.param(400, marks=pytest.mark.slow)])
def test_flipped_bit_in_any_file_is_reported_or_harmless(run, flips, record_property):
    names = {str(name) for name in inputs(run)}
    decisive = {"recipe.json", "plan.json", "result.json", "history.csv", "nan_events.json"}
    assert decisive | {"best.npz", "digests.json"} < names
    whole, said = observed(run)
    assert said == []
    choose, reported = random.Random(0), 0
    for name in inputs(run):
        path = run / name
        good = path.read_bytes()
        for bit in choose.sample(range(8 * len(good)), min(flips, 8 * len(good))):
            flip(path, bit)
            try:
                read, said = observed(run)
            except UserError as error:
                said = [str(error)]
            assert said or read == whole, (name, bit)
            assert "\n" not in "".join(said)
            # That of a replaced file is not read, nor is the checkpoint before the newest.
            assert said or name.name == "digests.json" or name.suffix == ".npz", (name, bit)
            reported += bool(said)
            path.write_bytes(good)
    record_property("fuzz flipped bits", reported)


@pytest.mark.slow
def test_resume_after_flipped_bit_ends_with_the_same_bits_or_a_message(coloured, tmp_path):
    recipe = small_recipe(coloured)
    whole, _ = train(recipe, tmp_path / "whole")
    interrupt(recipe, tmp_path / "run", 14)
    for number, name in enumerate(inputs(tmp_path / "run")):
        place = Path(shutil.copytree(tmp_path / "run", tmp_path / str(number)))
        flip(place / name, 8 * (place / name).stat().st_size // 2)
        watcher = Watcher()
        try:
            run, _ = train(recipe, place, watcher)
            assert same_end(run, whole), name
        except UserError as error:
            watcher.notes.append(str(error))
        reported = any("SHA-256" in note or "digests.json" in note for note in watcher.notes)
        # A run that resumes writes its history anew, and reads its newest checkpoint alone.
        assert reported or str(name) in {"history.csv", "digests.json", OLDER}, name
