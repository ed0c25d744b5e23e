"""The last lines of a run: its accuracy, and a command that runs as it stands."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.commands import train_summary

CALIBRATION = {
    "temperature": 1.3,
    "fitted_temperature": 1.3,
    "error_before": 0.021,
    "error_after": 0.008,
}
BEST = {"val_accuracy": 0.9375, "phase": "fine_tune", "epoch": 9}


WHERE = "on validation, fine_tune epoch 9"
INTERVAL = "of 80 (95%: 85.0% to 98.0%)"


@pytest.mark.parametrize(
    ("saved", "line"),
    [
        (0.9375, f"best: 93.75% {INTERVAL} {WHERE}"),
        (0.875, f"best: 93.75% {WHERE}; saved in float32: 87.50% {INTERVAL}"),
    ],
)
def test_saved_model_with_another_accuracy_has_both_printed(saved, line):
    validation = {"accuracy": saved, "count": 80, "accuracy_interval": (0.85, 0.98)}
    result = {"best": BEST, "validation": validation, "calibration": CALIBRATION, "verdict": ["x."]}
    *lines, calibration, verdict = train_summary.describe_accuracy(result)
    assert (lines, verdict) == ([line], "x.")
    errors = "expected error 2.10% without it, 0.80% with it, cross-fitted"
    assert calibration == f"calibration: temperature 1.300 saved; {errors}"
    result["test"] = {"accuracy": 0.5, "count": 8, "accuracy_interval": (0.2152, 0.7848)}
    result["calibration"] = {**CALIBRATION, "temperature": 1.0}
    _, test, calibration, _ = train_summary.describe_accuracy(result)
    assert test == "test: 50.00% of 8 (95%: 21.5% to 78.5%)"
    assert calibration == (
        f"calibration: no temperature saved, since 1.300 does not improve it beyond noise; {errors}"
    )


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
