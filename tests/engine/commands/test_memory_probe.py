"""A device without memory left: what is said then, and what `--batch_size=auto` finds before."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from engine.commands import memory_probe
from engine.core.errors import UserError
from engine.core.recipe import parse_phase, to_json
from tests.bin.programs import run, start
from tests.engine.small_runs import small_recipe

pytestmark = pytest.mark.usefixtures("own_cache")

TRAIN = ("--image_size=64", "--batch_size=4", "--phase=t(epochs=1)", "--precision=float32")
# Every Python process reads this when it begins: a device on which more than so many images at a
# time don't fit, in the run and in those that it starts.
SMALL_DEVICE = """
import importlib.abc, importlib.machinery, os, sys

class Smaller(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "engine.training.steps":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            call = module.TrainStep.__call__

            def run_step(step, *columns):
                recipe = step.recipe
                microbatch = recipe.batch_size // recipe.gradient_accumulation_steps
                if microbatch <= int(os.environ["FITTING"]):
                    return call(step, *columns)
                from tensorflow import errors
                raise errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

            module.TrainStep.__call__ = run_step

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Smaller())
"""

# Likewise: a try that leaves its number, and then does nothing.
ENDLESS = """
import os, sys, time

if "try" in sys.orig_argv:
    with open(os.environ["TRYING"] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.environ["TRYING"] + ".part", os.environ["TRYING"])
    time.sleep(600)
"""


@pytest.fixture
def small_device(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(SMALL_DEVICE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return lambda fitting: monkeypatch.setenv("FITTING", str(fitting))


@pytest.mark.parametrize(
    ("size", "want"), [(1, [1]), (8, [1, 2, 4, 8]), (24, [1, 2, 4, 8, 24]), (7, [1, 7])]
)
def test_pieces_divide_the_batch_and_shrink_by_half_or_more(size, want):
    assert list(memory_probe.pieces(size)) == want


def test_what_would_fit_is_said_in_one_line(small_device, coloured, tmp_path):
    small_device(2)
    err = run("train", *TRAIN, f"--data_dir={coloured}", f"--run_dir={tmp_path / 'r'}", status=1)
    assert err.count("\n") == 1
    assert "batch_size=4 with gradient_accumulation_steps=1 takes more memory than there is" in err
    assert "2 images at a time fit; give --gradient_accumulation_steps=2" in err
    assert json.loads((tmp_path / "r" / "result.json").read_text())["status"] == "failed"


def test_what_would_fit_in_a_recipe_file_is_said_too(small_device, coloured, tmp_path):
    small_device(2)
    phases = (parse_phase("t(epochs=1)"),)
    file = tmp_path / "mine.json"
    file.write_text(to_json(dataclasses.replace(small_recipe(coloured), phases=phases)))
    err = run("train", f"--recipe={file}", f"--run_dir={tmp_path / 'r'}", status=1)
    assert '(in a recipe file "gradient_accumulation_steps": 4)' in err
    assert err.count("\n") == 1


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """Every try goes on for ever; gives a function that waits for one and tells its process."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(ENDLESS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("TRYING", str(tmp_path / "trying"))

    def begun(process) -> int:
        while not (tmp_path / "trying").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return int((tmp_path / "trying").read_text())

    return begun


def ended(number: int) -> bool:
    """Whether a process is gone, or would be if its parent asked for its status."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_search_that_is_asked_to_end_ends_with_its_try(endless, coloured, tmp_path):
    auto = ("--batch_size=auto", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'r'}")
    process = start("train", *auto)
    trying = endless(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.startswith("train: stopped by SIGTERM; ")
    assert err.count("\n") == 1
    assert ended(trying)


def test_so_does_one_that_looks_for_advice(endless, coloured):
    recipe = to_json(small_recipe(coloured))
    process = start("_fits.py", memory_probe.ADVISE, 1, recipe)
    trying = endless(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert ended(trying)


def test_auto_finds_it_before_anything_is_trained(small_device, coloured, tmp_path):
    small_device(16)
    auto = ("--image_size=64", "--batch_size=auto", *TRAIN[2:], f"--data_dir={coloured}")
    run("train", *auto, f"--run_dir={tmp_path / 'r'}")
    recipe = json.loads((tmp_path / "r" / "recipe.json").read_text())
    assert (recipe["batch_size"], recipe["gradient_accumulation_steps"]) == (32, 2)


def test_where_nothing_fits_it_is_said(small_device, coloured, tmp_path):
    small_device(0)
    two = ("--image_size=64", "--batch_size=2", *TRAIN[2:])
    err = run("train", *two, f"--data_dir={coloured}", f"--run_dir={tmp_path / 'r'}", status=1)
    assert "image by image even; give a smaller --backbone" in err


def test_a_try_that_fails_otherwise_is_no_answer(tmp_path):
    gone = small_recipe(tmp_path / "gone")
    with pytest.raises(UserError, match=r"can't be found out: .*gone does not exist"):
        memory_probe.settle(gone, None, 1)


def test_a_try_may_say_anything(tmp_path, monkeypatch):
    """Native code writes to the error stream too, and not in UTF-8 alone."""
    says = "import os; os.write(2, b'\\xff odd\\n'); raise SystemExit(1)"
    monkeypatch.setattr(memory_probe, "_command", lambda *_: [sys.executable, "-c", says])
    with pytest.raises(UserError, match=r"can't be found out: .* odd"):
        memory_probe.settle(small_recipe(tmp_path), None, 1)
