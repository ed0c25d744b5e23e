"""bin/train: its flags reach their place, and what is finished is not called interrupted."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from engine.cli import command_line
from engine.cli import main as cli_main
from engine.cli import train as cli_train
from engine.commands import memory_probe, training_data
from engine.commands import train as command
from engine.commands.shared_options import CacheOptions
from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.training import loop
from pipelines.loading import prepare
from pipelines.pixel_cache import scan as scan_module
from pipelines.pixel_cache.scan import ImageFacts
from tests.engine.small_runs import Watcher, small_recipe

SMALL = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8"),
    *("--validation_fraction=0.25", "--noreport", "--phase=head(epochs=1)"),
)


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
    """The options of the runs of a test, none of which trains; all lack a report."""
    options: list[command.TrainOptions] = []

    def train(given, examples, lock, logger, stop):
        assert stop is shutdown
        options.append(given)
        return command.TrainResult(lock.run, {}, {}, "no report (x)")

    monkeypatch.setattr(command, "_train", train)
    return options


def options_of(*arguments) -> command.TrainOptions:
    phase = [] if SMALL[-1] in arguments else ["--phase=head()"]
    argv = ["bin/train", "--data_dir=x", *phase, *arguments]
    return cli_train.train_options(command_line.parse("[flags]", cli_train.ALL, argv), argv)


def test_flags_reach_the_options():
    options = options_of(
        *("--run_dir=r", "--threads=3", "--cache_memory=1GB", "--cache_dir=/c", "--overwrite"),
        *("--on_nan=stop", "--profile_steps=2-4", "--noreport"),
        "--price_per_hour=2",
    )
    assert (options.run_dir, options.threads, options.overwrite) == (Path("r"), 3, True)
    assert options.cache == CacheOptions(Path("/c"), 10**9)
    assert (options.on_nan, options.profile_steps, options.report) == ("stop", (2, 4), False)
    assert options.price_per_hour == 2
    assert options.command.startswith("bin/train --data_dir=x '--phase=head()' --run_dir=r")


def test_options_without_flags_are_the_defaults_of_the_function():
    options = options_of()
    assert options == command.TrainOptions(
        options.recipe, Path("runs/x"), command="bin/train --data_dir=x '--phase=head()'"
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
    cli_train.main(["bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}", *flags])
    assert len(run_options) == 1
    assert shutdown.requested == requested
    out, err = capsys.readouterr()
    assert out.startswith(f"written to {place}; look at it with: ")
    assert err == "train: no report (x)\n"


def test_terminal_that_is_gone_does_not_end_a_run(run_options, monkeypatch, coloured, tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdout", Gone())
    cli_train.main(["bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}"])
    assert len(run_options) == 1


def test_signal_after_the_end_does_not_interrupt_a_run(
    shutdown, monkeypatch, coloured, tmp_path, capsys
):
    """The signal comes when all is done, and its results are about to be printed."""
    jobs = []

    def describe(result):
        shutdown._raise(signal.SIGTERM, None)
        yield f"best: {result['best']['val_accuracy']:.2%}"

    final = types.SimpleNamespace(result={"best": {"val_accuracy": 0.5}}, predictions={})
    monkeypatch.setattr(loop, "train", lambda job: jobs.append(job) or final)
    monkeypatch.setattr(command.train_summary, "describe_accuracy", describe)
    flags = (f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}", "--on_nan=stop")
    cli_train.main(["bin/train", *SMALL, *flags])
    assert shutdown.reason == "SIGTERM"
    assert "best: 50.00%" in capsys.readouterr().out
    assert not (tmp_path / "run" / "result.json").exists(), "no failure is recorded"
    (job,) = jobs
    assert (job.on_nan, job.shutdown) == ("stop", shutdown)


def test_signal_within_tensorflow_is_no_failure(shutdown, monkeypatch, coloured, tmp_path):
    """Its C++ was building an error when the signal came, and made another of it."""

    def prepare_training_data(*_):
        try:
            shutdown._raise(signal.SIGTERM, None)
        except ShutdownRequested as error:
            raise RuntimeError("MISMATCH of original and normalized exception") from error

    monkeypatch.setattr(prepare, "prepare_training_data", prepare_training_data)
    place = tmp_path / "run"
    with pytest.raises(ShutdownRequested, match="SIGTERM"):
        cli_train.main(["bin/train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}"])
    assert json.loads((place / "result.json").read_text())["status"] == "interrupted"


def test_missing_images_are_named_before_an_earlier_run_of_another_recipe(shutdown, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text('{"backbone": "other", "phases": []}')
    (run / "best.npz").touch()
    flags = (f"--run_dir={run}", f"--data_dir={tmp_path}/flowers")
    with pytest.raises(UserError, match=f"the folder {tmp_path}/flowers does not exist"):
        cli_train.main(["bin/train", *SMALL, *flags])
    assert sorted(path.name for path in run.iterdir()) == ["best.npz", "recipe.json"]


def test_unknown_stage_is_refused_before_images_are_decoded(
    shutdown, monkeypatch, coloured, tmp_path
):
    monkeypatch.setattr(prepare, "prepare_training_data", None)
    flags = (f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}", "--phase=a(trainable=tip)")
    with pytest.raises(UserError, match=r"trainable=tip: .* \(did you mean 'top'\?\)"):
        cli_train.main(["bin/train", *SMALL, *flags])
    assert not list(tmp_path.iterdir())


def test_run_resumes_without_the_run_that_it_started_from(run_options, coloured, tmp_path):
    """Its weights are in a checkpoint."""
    run, other = tmp_path / "run", tmp_path / "other"
    flags = (f"--data_dir={coloured}", f"--run_dir={run}", f"--init_from={other}")
    other.mkdir()
    (other / "best.npz").touch()
    cli_train.main(["bin/train", *SMALL, *flags])
    (other / "best.npz").unlink()
    (run / "checkpoints" / "step_4.npz").touch()
    cli_train.main(["bin/train", *SMALL, *flags])
    assert len(run_options) == 2


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
    coloured, tmp_path, monkeypatch, started, expected
):
    """Nothing of a run that is resumed, whose weights are not in the model yet."""
    phases, compiled = ("head(epochs=0)", "middle(epochs=1)", "top(epochs=1)"), []

    def compile_ahead(classifier, recipe, phases, devices, memory):
        compiled.extend(phase.name for phase in phases)

    monkeypatch.setattr(training_data.trunk, "compile_ahead", compile_ahead)
    if started:
        (tmp_path / "best.npz").touch()
    run, recipe = RunDirectory(tmp_path), small_recipe(coloured, phases)
    training_data.prepare_job(recipe, run, CacheOptions(), 2, Watcher())
    assert compiled == expected


def test_images_that_cannot_be_used_are_refused_before_tensorflow_starts(tmp_path, monkeypatch):
    (tmp_path / "data" / "alone").mkdir(parents=True)
    (tmp_path / "data" / "alone" / "1.jpg").touch()
    monkeypatch.setattr(command.tensorflow_setup, "start_tensorflow", None)
    options = options_of(*SMALL, f"--data_dir={tmp_path / 'data'}", f"--run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match="alone"):
        command.train(options)
    assert not (tmp_path / "run").exists()


def test_network_that_cannot_be_built_ends_the_scan(coloured, tmp_path, monkeypatch):
    scanning, ended = threading.Event(), []
    recipe, run = small_recipe(coloured), RunDirectory(tmp_path)

    def build(*_):
        assert scanning.wait(60)
        raise UserError("no weights")

    def scan(examples, pixels, threads, collect):
        images = np.zeros((1, *recipe.image_size, 3), np.uint8)
        batch = ImageFacts(images, *(np.zeros(1, np.int64) for _ in range(2)))
        scanning.set()
        try:
            while True:
                collect(np.zeros(1, np.int32), batch)
        finally:
            ended.append(True)

    monkeypatch.setattr(training_data.setup, "build", build)
    monkeypatch.setattr(scan_module, "scan_images", scan)
    with pytest.raises(UserError, match="no weights"):
        training_data.prepare_job(recipe, run, CacheOptions(tmp_path), 2, Watcher())
    assert ended == [True]
    assert not list(tmp_path.glob("pixels-*"))


def test_run_on_splits_that_lack_classes_names_them_and_ends_with_a_report(coloured, tmp_path):
    splits = {"blue": ("train", "validation"), "red": ("train", "test")}
    rows = [
        f"{coloured}/{name}/{number:02}.jpg,{name},{parts[number % 2]}"
        for name, parts in splits.items()
        for number in range(26)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    data = DataSpec("manifest", str(tmp_path / "list.csv"), manifest_root=str(coloured))
    recipe, watcher = small_recipe(coloured, ["head(epochs=1)"], data=data), Watcher()
    run = tmp_path / "run"
    result = command.train(command.TrainOptions(recipe, run, cache=CacheOptions(None)), watcher)
    assert result.report_error is None
    listed = (run / "missing_classes.csv").read_text()
    assert listed == "split,class\nvalidation,red\ntest,blue\n"
    notes = [note for note in watcher.notes if str(run / "missing_classes.csv") in note]
    assert [note.partition(",")[0] for note in notes] == [
        "note: validation has no images of 1 of the 2 classes",
        "note: test has no images of 1 of the 2 classes",
    ]
