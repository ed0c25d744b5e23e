"""bin/train: its flags reach their place, and what is finished is not called interrupted."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import types
from pathlib import Path

import pytest

from engine.cli import command_line
from engine.cli import main as cli_main
from engine.cli import train as cli_train
from engine.commands import memory_probe, training_data
from engine.commands import train as command
from engine.commands.shared_options import CacheOptions
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.training import loop
from pipelines.pixel_cache import scan

SMALL = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8"),
    *("--validation_fraction=0.25", "--cache_dir=none", "--noreport", "--phase=head(epochs=1)"),
)
RESULT = {
    "best": {"val_accuracy": 0.5, "phase": "head", "epoch": 1},
    "validation": {"accuracy": 0.5},
}


@pytest.fixture
def shutdown(monkeypatch) -> Shutdown:
    """Ends the runs of a test, instead of signals; `requested` are the flags about it."""
    shutdown = Shutdown()

    def make(*arguments):
        shutdown.requested = arguments
        return shutdown

    monkeypatch.setattr(cli_main, "listen_for_shutdown", make)
    return shutdown


@pytest.fixture
def run_options(shutdown, monkeypatch) -> list:
    """The options of the runs of a test, none of which trains."""
    options: list[command.TrainOptions] = []

    def train(given, lock, logger, stop):
        assert stop is shutdown
        options.append(given)
        return command.TrainResult(lock.run, {}, {})

    monkeypatch.setattr(command, "_train", train)
    return options


def options_of(*arguments) -> command.TrainOptions:
    argv = ["bin/train", "--data_dir=x", *arguments]
    return cli_train.train_options(command_line.parse("[flags]", cli_train.ALL, argv), argv)


def test_flags_reach_the_options():
    options = options_of(
        *("--run_dir=r", "--threads=3", "--cache_memory=1GB", "--cache_dir=/c", "--overwrite"),
        *("--on_nan=stop", "--profile_steps=2-4", "--show_augmented=a.png", "--noreport"),
        "--price_per_hour=2",
    )
    assert (options.run_dir, options.threads, options.overwrite) == (Path("r"), 3, True)
    assert options.cache == CacheOptions(Path("/c"), 10**9)
    assert (options.on_nan, options.profile_steps, options.report) == ("stop", (2, 4), False)
    assert (options.show_augmented, options.price_per_hour) == (Path("a.png"), 2)
    assert options.command.startswith("bin/train --data_dir=x --run_dir=r")


def test_options_without_flags_are_the_defaults_of_the_function():
    options = options_of()
    assert options == command.TrainOptions(
        options.recipe, Path("runs/x"), command="bin/train --data_dir=x"
    )
    assert options_of("--batch_size=auto").fit_memory
    assert options_of("--cache_dir=none").cache.folder is None
    assert options_of("--cache_dir=").cache == CacheOptions(), "not the working directory"


@pytest.mark.parametrize(
    ("flags", "requested"),
    [
        ((), (None, False)),
        (("--preemption_signal=SIGUSR2", "--watch_preemption"), ("SIGUSR2", True)),
    ],
)
def test_flags_of_preemption_reach_the_shutdown(
    run_options, shutdown, coloured, tmp_path, capsys, flags, requested
):
    place = tmp_path / "run"
    cli_train.main(["bin/train", f"--data_dir={coloured}", f"--run_dir={place}", *flags])
    assert len(run_options) == 1
    assert shutdown.requested == requested
    assert capsys.readouterr().out.startswith(f"written to {place}; look at it with: ")


def test_missing_report_is_said_on_the_error_stream(
    run_options, monkeypatch, coloured, tmp_path, capsys
):
    def train(options, lock, logger, shutdown):
        return command.TrainResult(lock.run, {}, {}, "no report (x); bin/evaluate writes one")

    monkeypatch.setattr(command, "_train", train)
    cli_train.main(["bin/train", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}"])
    out, err = capsys.readouterr()
    assert out.startswith("written to ")
    assert err == "train: no report (x); bin/evaluate writes one\n"


def test_terminal_that_is_gone_does_not_end_a_run(run_options, monkeypatch, coloured, tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdout", Gone())
    cli_train.main(["bin/train", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}"])
    assert len(run_options) == 1


def test_run_that_is_finished_is_not_called_interrupted(
    shutdown, monkeypatch, coloured, tmp_path, capsys
):
    """The signal comes when all is done, and its results are about to be printed."""
    jobs = []

    def figures(result):
        shutdown._raise(signal.SIGTERM, None)
        yield f"best: {result['best']['val_accuracy']:.2%}"

    final = types.SimpleNamespace(result=RESULT, predictions={})
    monkeypatch.setattr(loop, "train", lambda job: jobs.append(job) or final)
    monkeypatch.setattr(command.train_summary, "describe_accuracy", figures)
    place = tmp_path / "run"
    flags = (f"--data_dir={coloured}", f"--run_dir={place}", "--on_nan=stop")
    cli_train.main(["bin/train", *SMALL, *flags])
    assert shutdown.reason == "SIGTERM"
    assert "best: 50.00%" in capsys.readouterr().out
    assert not (place / "result.json").exists(), "which the loop writes, and a failure"
    (job,) = jobs
    assert (job.on_nan, job.shutdown) == ("stop", shutdown)


def test_signal_within_tensorflow_is_no_failure(shutdown, monkeypatch, coloured, tmp_path):
    """Its C++ was building an error when the signal came, and made another of it."""

    def scan_images(*_, **__):
        try:
            shutdown._raise(signal.SIGTERM, None)
        except ShutdownRequested as error:
            raise RuntimeError("MISMATCH of original and normalized exception") from error

    monkeypatch.setattr(scan, "scan_images", scan_images)
    place = tmp_path / "run"
    with pytest.raises(ShutdownRequested, match="SIGTERM"):
        cli_train.main(["bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}"])
    assert json.loads((place / "result.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--data_dir={}/flowers", "the folder {}/flowers does not exist"),
        ("--manifest={}/list.csv", "the manifest {}/list.csv does not exist"),
    ],
)
def test_missing_images_are_named_before_an_earlier_run_of_another_recipe(
    shutdown, tmp_path, flags, said
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text('{"backbone": "other", "phases": []}')
    (run / "best.npz").touch()
    with pytest.raises(UserError) as caught:
        cli_train.main(["bin/train", *SMALL, f"--run_dir={run}", flags.format(tmp_path)])
    assert said.format(tmp_path) in str(caught.value)
    assert sorted(path.name for path in run.iterdir()) == ["best.npz", "recipe.json"]


def test_missing_init_from_is_refused_unless_the_run_resumes(run_options, coloured, tmp_path):
    run, other = tmp_path / "run", tmp_path / "nosuch"
    flags = ("bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={run}")
    with pytest.raises(UserError, match=rf"--init_from={other}: holds no run with a model"):
        cli_train.main([*flags, f"--init_from={other}"])
    assert not run.exists()
    other.mkdir()
    (other / "best.npz").touch()
    cli_train.main([*flags, f"--init_from={other}"])
    (other / "best.npz").unlink()
    (run / "checkpoints" / "step_4.npz").touch()
    cli_train.main([*flags, f"--init_from={other}"])
    assert len(run_options) == 2, "a resumed run has its weights in a checkpoint"


def test_without_a_logger_nothing_is_printed_and_out_of_memory_is_an_error(
    shutdown, monkeypatch, coloured, tmp_path, capfd
):
    from tensorflow import errors

    def train(job):
        raise errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

    monkeypatch.setattr(loop, "train", train)
    options = options_of(*SMALL, f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}")
    with pytest.raises(memory_probe.OutOfMemoryError, match="batch_size=8 with gradient_acc"):
        command.train(options)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("started", "expected"), [(False, ["middle"]), (True, [])])
def test_first_phase_with_epochs_is_compiled_during_the_first_pass(
    tmp_path, monkeypatch, started, expected
):
    """Nothing of a run that is resumed, whose weights are not in the model yet."""
    compiled = []

    class Meanwhile:
        def __init__(self, classifier, recipe, phases, devices):
            compiled.extend(phase.name for phase in phases)

        __enter__ = __exit__ = lambda *_: None

    monkeypatch.setattr(training_data.trunk, "compile_in_background", Meanwhile)
    examples = types.SimpleNamespace(classes=())
    monkeypatch.setattr(training_data.sources, "load_examples", lambda data: examples)
    monkeypatch.setattr(training_data.setup, "build", lambda *_: None)
    monkeypatch.setattr(training_data.prepare, "prepare_training_data", lambda *_: (examples, None))
    monkeypatch.setattr(training_data.batches, "ImageDataLoader", lambda *_: None)
    run = RunDirectory(tmp_path)
    if started:
        run.best.touch()
    phases = ("--phase=head(epochs=0)", "--phase=middle(epochs=1)", "--phase=top(epochs=1)")
    logger = types.SimpleNamespace(note=print)
    cache = CacheOptions(None, 0)
    training_data.prepare_job(options_of(*phases).recipe, run, cache, 2, logger)
    assert compiled == expected
