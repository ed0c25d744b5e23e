"""The last lines of a run: its accuracy, and a command that runs as it stands."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.commands import train_summary

BEST = {"val_accuracy": 0.9375, "phase": "fine_tune", "epoch": 9}


@pytest.mark.parametrize(("saved", "end"), [(0.9375, ""), (0.875, "; saved in float32: 87.50%")])
def test_saved_model_with_another_accuracy_has_both_printed(saved, end):
    line = f"best: 93.75% on validation, fine_tune epoch 9{end}"
    result = {"best": BEST, "validation": {"accuracy": saved}}
    assert list(train_summary.describe_accuracy(result)) == [line]
    result["test"] = {"accuracy": 0.5, "count": 8}
    assert list(train_summary.describe_accuracy(result)) == [line, "test: 50.00% of 8"]


@pytest.mark.slow
def test_tensorboard_command_starts_tensorboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = shlex.split(train_summary.tensorboard_command(Path("runs/my run")))[:-1]
    done = subprocess.run([*program, "--helpshort"], capture_output=True, text=True)
    assert "logdir" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("folder", "beside", "command"),
    [
        (".", True, ".venv/bin/tensorboard --logdir=run"),
        (".venv", True, "bin/tensorboard --logdir=run"),
        (".venv/bin", True, "'{home}/.venv/bin/tensorboard' --logdir=run"),
        ("other", True, "'{home}/.venv/bin/tensorboard' --logdir=run"),
        (".", False, "'{home}/.venv/bin/python' -m tensorboard.main --logdir=run"),
    ],
)
def test_tensorboard_is_that_of_the_environment(tmp_path, monkeypatch, folder, beside, command):
    home = tmp_path / "my home"
    programs = home / ".venv" / "bin"
    programs.mkdir(parents=True)
    (home / "other").mkdir()
    if beside:
        (programs / "tensorboard").touch()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(home / folder)
    assert train_summary.tensorboard_command(Path("run")) == command.format(home=home)
