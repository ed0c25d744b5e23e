"""bin/train: its flags reach their place, and what is finished is not called interrupted."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import signal
import types
from pathlib import Path

import pytest

from engine.cli import main as cli_main
from engine.core.errors import UserError
from engine.loggers.console import ConsoleLogger
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.training import loop
from pipelines.pixel_cache import scan

PROGRAM = Path(__file__).resolve().parents[3] / "bin" / "train"
SMALL = (
    *("--backbone=mobilenet_v2", "--weights=none", "--image_size=32", "--batch_size=8"),
    *("--validation_fraction=0.25", "--cache_dir=none", "--noreport", "--phase=head(epochs=1)"),
)
RESULT = {
    "best": {"val_accuracy": 0.5, "phase": "head", "epoch": 1},
    "validation": {"accuracy": 0.5},
}


@pytest.fixture
def train():
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("train", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("train", loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def stop(monkeypatch) -> Shutdown:
    """What ends the run, which here is no signal; `asked` is what it was made of."""
    made = Shutdown()

    def make(*arguments):
        made.asked = arguments
        return made

    monkeypatch.setattr(cli_main, "stop", make)
    return made


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ((), (None, False)),
        (("--preemption_signal=SIGUSR2", "--watch_preemption"), ("SIGUSR2", True)),
    ],
)
def test_what_ends_a_run_is_listened_for(
    train, stop, monkeypatch, coloured, tmp_path, flags, asked
):
    monkeypatch.setattr(train, "train", lambda recipe, run, parsed, given: got.append(given))
    got = []
    train.main(["bin/train", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}", *flags])
    assert got == [stop]
    assert stop.asked == asked


def test_a_finished_run_is_not_called_interrupted(
    train, stop, monkeypatch, coloured, tmp_path, capsys
):
    """The signal comes when all is done, and its results are about to be printed."""
    jobs = []

    def leave(*_) -> None:
        stop._raise(signal.SIGTERM, None)

    monkeypatch.setattr(cli_main, "start_tensorflow", lambda *_: 2)
    found = types.SimpleNamespace(result=RESULT)
    monkeypatch.setattr(loop, "train", lambda job: jobs.append(job) or found)
    monkeypatch.setattr(ConsoleLogger, "__exit__", leave)
    place = tmp_path / "run"
    flags = (f"--data_dir={coloured}", f"--run_dir={place}", "--on_nan=stop")
    train.main(["bin/train", *SMALL, *flags])
    assert stop.reason == "SIGTERM"
    assert "best: 50.00% on validation, head epoch 1" in capsys.readouterr().out
    assert not (place / "result.json").exists(), "which the loop writes, and a failure"
    (job,) = jobs
    assert (job.on_nan, job.stop) == ("stop", stop)


def test_a_signal_within_tensorflow_is_no_failure(train, stop, monkeypatch, coloured, tmp_path):
    """Its C++ was building an error when the signal came, and made another of it."""

    def look(*_, **__):
        try:
            stop._raise(signal.SIGTERM, None)
        except ShutdownRequested as error:
            raise RuntimeError("MISMATCH of original and normalized exception") from error

    monkeypatch.setattr(cli_main, "start_tensorflow", lambda *_: 2)
    monkeypatch.setattr(scan, "look", look)
    place = tmp_path / "run"
    with pytest.raises(ShutdownRequested, match="SIGTERM"):
        train.main(["bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}"])
    assert json.loads((place / "result.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--data_dir={}/flowers", "the folder {}/flowers does not exist"),
        ("--manifest={}/list.csv", "the manifest {}/list.csv does not exist"),
    ],
)
def test_missing_images_are_said_before_an_earlier_run_is_in_the_way(
    train, stop, tmp_path, flags, said
):
    """Which has another recipe, as it was made from images that are there."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text('{"backbone": "other", "phases": []}')
    (run / "best.npz").touch()
    with pytest.raises(UserError) as caught:
        train.main(["bin/train", *SMALL, f"--run_dir={run}", flags.format(tmp_path)])
    assert said.format(tmp_path) in str(caught.value)
    assert sorted(path.name for path in run.iterdir()) == ["best.npz", "recipe.json"]


def test_a_run_to_begin_from_is_named_by_its_own_flag(train, stop, monkeypatch, coloured, tmp_path):
    run, gone = tmp_path / "run", tmp_path / "nosuch"
    flags = ("bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={run}")
    with pytest.raises(UserError, match=rf"--init_from={gone}: holds no run with a model"):
        train.main([*flags, f"--init_from={gone}"])
    assert not run.exists()
    monkeypatch.setattr(train, "train", lambda *_: got.append(True))
    got = []
    gone.mkdir()
    (gone / "best.npz").touch()
    train.main([*flags, f"--init_from={gone}"])
    (gone / "best.npz").unlink()
    (run / "checkpoints" / "step_4.npz").touch()
    train.main([*flags, f"--init_from={gone}"])
    assert len(got) == 2, "what goes on has its weights in a checkpoint"
