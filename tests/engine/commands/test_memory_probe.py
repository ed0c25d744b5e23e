"""A device without memory left: the error, and what `--batch_size=auto` finds before."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.commands import memory_probe
from engine.core.errors import UserError
from engine.core.recipe import to_json
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import child_process
from tests.bin.programs import start
from tests.engine import tiny
from tests.engine.small_runs import small_recipe


@pytest.fixture
def fitting(monkeypatch):
    """Makes so many images at a time fit, and no more."""

    def limit(count: int) -> None:
        def fits(recipe, threads):
            return recipe.batch_size // recipe.gradient_accumulation_steps <= count

        monkeypatch.setattr(memory_probe, "_fits", fits)

    return limit


@pytest.mark.parametrize(
    ("size", "counts"), [(1, [1]), (8, [1, 2, 4, 8]), (24, [1, 2, 4, 8, 24]), (7, [1, 7])]
)
def test_microbatch_counts_divide_the_batch_and_double_at_least(size, counts):
    assert list(memory_probe.microbatch_counts(size)) == counts


def test_auto_takes_the_fewest_microbatches_that_fit(fitting, tmp_path):
    fitting(16)
    recipe = small_recipe(tmp_path, batch_size=32)
    fitted = memory_probe.fit_accumulation_steps(recipe, None, None)
    assert fitted == dataclasses.replace(recipe, gradient_accumulation_steps=2)


def test_auto_keeps_the_microbatches_of_a_resumed_run(fitting, tmp_path):
    fitting(0)
    resumed = RunDirectory(tmp_path / "run")
    recipe = small_recipe(tmp_path, gradient_accumulation_steps=4)
    claim_directory(resumed, recipe, overwrite=False)
    resumed.best.touch()
    plain = dataclasses.replace(recipe, gradient_accumulation_steps=1)
    assert memory_probe.fit_accumulation_steps(plain, resumed, None) == recipe


def test_model_that_never_fits_is_refused(fitting, tmp_path):
    fitting(0)
    message = "even with one image at a time; give a smaller --backbone"
    with pytest.raises(UserError, match=message):
        memory_probe.fit_accumulation_steps(small_recipe(tmp_path), None, None)
    assert message in memory_probe.advice(small_recipe(tmp_path), None)


def test_run_out_of_memory_names_what_fits_in_one_line(coloured, tmp_path):
    recipe = small_recipe(coloured, ["t(epochs=1)"], batch_size=4)
    (tmp_path / "mine.json").write_text(to_json(recipe))
    flags = (f"--recipe={tmp_path / 'mine.json'}", f"--run_dir={tmp_path / 'r'}")
    process = start("train", *flags, env=tiny.environment(FITTING="2"))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "batch_size=4 with gradient_accumulation_steps=1 takes more memory than there is" in err
    assert "2 images at a time fit; give --gradient_accumulation_steps=2 (in a recipe file" in err
    assert not (tmp_path / "r").exists(), "nothing was trained"


AUTO = ("--backbone=tiny", "--weights=none", "--batch_size=auto")


@pytest.mark.slow
def test_auto_tries_processes_and_trains_with_what_fits(coloured, tmp_path):
    run = tmp_path / "r"
    flags = (*AUTO, "--precision=float32", "--phase=head(epochs=1)", "--noreport")
    places = (f"--data_dir={coloured}", f"--run_dir={run}")
    process = start("train", *flags, *places, env=tiny.environment(FITTING="16"))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    recipe = json.loads((run / "recipe.json").read_text())
    assert (recipe["batch_size"], recipe["gradient_accumulation_steps"]) == (32, 2)
    assert json.loads((run / "result.json").read_text())["status"] == "finished"


def wait_for_trial(process, file: Path) -> int:
    """The number of the trial's process."""
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return int(file.read_text())


def ended(number: int) -> bool:
    """Whether a process is gone, or would be if its parent asked for its status."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def train_with_auto(images: Path, environment: dict) -> subprocess.Popen:
    flags = (*AUTO, f"--data_dir={images}", f"--run_dir={images.parent / 'r'}")
    return start("train", *flags, env=environment)


def advise(images: Path, environment: dict) -> subprocess.Popen:
    task = (memory_probe.MODULE, memory_probe.ADVISE, "1", to_json(small_recipe(images)))
    command = child_process.module_command(*task)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("begin", "status", "message"),
    [
        (train_with_auto, 75, r"train: stopped by SIGTERM; .*\n"),
        (advise, 128 + signal.SIGTERM, ""),
    ],
)
def test_sigterm_ends_a_search_and_its_trial(coloured, tmp_path, begin, status, message):
    (tmp_path / "images").symlink_to(coloured)
    trial = tmp_path / "trial"
    process = begin(tmp_path / "images", tiny.environment(TRIAL=str(trial)))
    number = wait_for_trial(process, trial)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert re.fullmatch(message, err)
    assert ended(number)


def test_trial_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    """Native code writes to the error stream too, and not in UTF-8 alone."""
    code = r"import os; os.write(2, b'\xff odd\ntrain: gone\n'); raise SystemExit(1)"
    monkeypatch.setattr(memory_probe, "_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(UserError, match="can't be measured: gone"):
        memory_probe.fit_accumulation_steps(small_recipe(tmp_path), None, 1)
