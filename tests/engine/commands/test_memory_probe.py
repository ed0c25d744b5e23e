"""A device without memory left: what is said then, and what `--batch_size=auto` finds before."""

from __future__ import annotations

import dataclasses
import json
import os
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

pytestmark = pytest.mark.usefixtures("own_cache")

# Every Python process reads this when it starts: a device on which more than so many images at a
# time don't fit, in the run and in the processes that it starts.
SMALL_DEVICE = """
import importlib.abc, importlib.machinery, os, sys

class Smaller(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "engine.training.train_step":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            call = module.TrainStep.__call__

            def limited(step, *arguments):
                recipe = step.recipe
                microbatch = recipe.batch_size // recipe.gradient_accumulation_steps
                if microbatch > int(os.environ["FITTING"]):
                    from tensorflow import errors
                    raise errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")
                return call(step, *arguments)

            module.TrainStep.__call__ = limited

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Smaller())
"""

# Likewise: a trial that leaves its process number, and then does nothing.
ENDLESS = """
import os, sys, time

if "try" in sys.orig_argv:
    with open(os.environ["TRYING"] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.environ["TRYING"] + ".part", os.environ["TRYING"])
    time.sleep(600)
"""


@pytest.fixture
def at_start(tmp_path, monkeypatch):
    """Makes every Python process that a test starts run this code first."""

    def install(code: str, **settings) -> None:
        site = tmp_path / "site"
        site.mkdir()
        registered = Path(tiny.__file__).parent / "with_tiny" / "sitecustomize.py"
        (site / "sitecustomize.py").write_text(f"{registered.read_text()}\n{code}")
        paths = {"PYTHONPATH": f"{site}{os.pathsep}{tiny.ROOT}"}
        for name, value in {**paths, **settings}.items():
            monkeypatch.setenv(name, str(value))

    return install


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


def test_run_out_of_memory_names_what_fits_in_one_line(at_start, coloured, tmp_path):
    at_start(SMALL_DEVICE, FITTING=2)
    recipe = small_recipe(coloured, ["t(epochs=1)"], batch_size=4)
    (tmp_path / "mine.json").write_text(to_json(recipe))
    flags = (f"--recipe={tmp_path / 'mine.json'}", f"--run_dir={tmp_path / 'r'}")
    process = start("train", *flags, env=os.environ)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "batch_size=4 with gradient_accumulation_steps=1 takes more memory than there is" in err
    assert "2 images at a time fit; give --gradient_accumulation_steps=2 (in a recipe file" in err
    assert json.loads((tmp_path / "r" / "result.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_auto_tries_processes_and_trains_with_what_fits(at_start, coloured, tmp_path):
    at_start(SMALL_DEVICE, FITTING=16)
    process = start(
        "train", "--backbone=tiny", "--weights=none", "--batch_size=auto", "--precision=float32",
        "--phase=head(epochs=1)", "--noreport", f"--data_dir={coloured}",
        f"--run_dir={tmp_path / 'r'}", env=os.environ,
    )  # fmt: skip
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    recipe = json.loads((tmp_path / "r" / "recipe.json").read_text())
    assert (recipe["batch_size"], recipe["gradient_accumulation_steps"]) == (32, 2)
    assert json.loads((tmp_path / "r" / "result.json").read_text())["status"] == "finished"


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


def train_with_auto(recipe_file: Path, folder: Path) -> subprocess.Popen:
    flags = ("--backbone=tiny", "--weights=none", "--batch_size=auto")
    places = (f"--data_dir={folder}", f"--run_dir={recipe_file.parent / 'r'}")
    return start("train", *flags, *places, env=os.environ)


def advise(recipe_file: Path, _: Path) -> subprocess.Popen:
    module, task = memory_probe.MODULE, memory_probe.ADVISE
    return subprocess.Popen(
        child_process.module_command(module, task, "1", recipe_file.read_text()),
        env=child_process.module_environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("begin", "status", "said"),
    [
        (train_with_auto, 75, r"train: stopped by SIGTERM; .*\n"),
        (advise, 128 + signal.SIGTERM, ""),
    ],
)
def test_sigterm_ends_a_search_and_its_trial(at_start, coloured, tmp_path, begin, status, said):
    at_start(ENDLESS, TRYING=tmp_path / "trying")
    (tmp_path / "recipe").write_text(to_json(small_recipe(coloured)))
    process = begin(tmp_path / "recipe", coloured)
    trial = wait_for_trial(process, tmp_path / "trying")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert re.fullmatch(said, err)
    assert ended(trial)


def test_trial_that_fails_otherwise_is_no_answer(tmp_path):
    with pytest.raises(UserError, match=r"can't be measured: .*gone does not exist"):
        memory_probe.fit_accumulation_steps(small_recipe(tmp_path / "gone"), None, 1)


def test_trial_may_print_any_bytes(tmp_path, monkeypatch):
    """Native code writes to the error stream too, and not in UTF-8 alone."""
    code = "import os; os.write(2, b'\\xff odd\\n'); raise SystemExit(1)"
    monkeypatch.setattr(memory_probe, "_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(UserError, match=r"can't be measured: .* odd"):
        memory_probe.fit_accumulation_steps(small_recipe(tmp_path), None, 1)
