"""bin/train: its flags reach their place, and what is finished is not called interrupted."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import signal
import types
from pathlib import Path

import _setup
import pytest

from engine import loop
from engine.console import Terminal
from engine.stopping import Stop

PROGRAM = Path(__file__).resolve().parents[2] / "bin" / "train"
SMALL = (
    *("--backbone=mobilenet_v2", "--weights=none", "--image_size=32", "--batch_size=8"),
    *("--validation_fraction=0.25", "--cache_dir=none", "--noreport", "--phase=head(epochs=1)"),
)
RESULT = {"best": {"val_accuracy": 0.5, "phase": "head", "epoch": 1}}


@pytest.fixture
def train():
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("train", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("train", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def stop(monkeypatch) -> Stop:
    """What ends the run, which here is no signal; `asked` is what it was made of."""
    made = Stop()

    def make(*arguments):
        made.asked = arguments
        return made

    monkeypatch.setattr(_setup, "stop", make)
    return made


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ((), (None, False)),
        (("--preemption_signal=SIGUSR2", "--watch_preemption"), ("SIGUSR2", True)),
    ],
)
def test_what_ends_a_run_is_listened_for(train, stop, monkeypatch, tmp_path, flags, asked):
    monkeypatch.setattr(train, "train", lambda recipe, run, parsed, given: got.append(given))
    got = []
    train.main(["bin/train", "--data_dir=x", f"--run_dir={tmp_path / 'run'}", *flags])
    assert got == [stop]
    assert stop.asked == asked


def test_a_finished_run_is_not_called_interrupted(
    train, stop, monkeypatch, coloured, tmp_path, capsys
):
    """The signal comes when all is done, and its results are about to be printed."""
    jobs = []

    def leave(*_) -> None:
        stop._raise(signal.SIGTERM, None)

    monkeypatch.setattr(_setup, "start_tensorflow", lambda *_: 2)
    found = types.SimpleNamespace(result=RESULT)
    monkeypatch.setattr(loop, "train", lambda job: jobs.append(job) or found)
    monkeypatch.setattr(Terminal, "__exit__", leave)
    place = tmp_path / "run"
    flags = (f"--data_dir={coloured}", f"--run_dir={place}", "--on_nan=stop")
    train.main(["bin/train", *SMALL, *flags])
    assert stop.reason == "SIGTERM"
    assert "best: 50.00% on validation, head epoch 1" in capsys.readouterr().out
    assert not (place / "result.json").exists(), "which the loop writes, and a failure"
    (job,) = jobs
    assert (job.on_nan, job.stop) == ("stop", stop)
