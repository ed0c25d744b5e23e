"""A run made ready: what is compiled while the images are looked at."""

from __future__ import annotations

import contextlib
import types

import pytest

from engine.cli import flags as cli_flags
from engine.commands import training_data
from engine.runs.directory import RunDirectory

PHASES = ("--phase=head(epochs=0)", "--phase=middle(epochs=1)", "--phase=top(epochs=1)")


@pytest.mark.parametrize(("started", "expected"), [(False, ["middle"]), (True, [])])
def test_the_first_phase_that_has_epochs_is_compiled_early(
    tmp_path, monkeypatch, started, expected
):
    """Nothing of a run that is taken up, whose weights are not in the model yet."""
    warmup = []

    @contextlib.contextmanager
    def meanwhile(made, recipe, phases, devices):
        warmup.extend(phase.name for phase in phases)
        yield None

    monkeypatch.setattr(training_data.warmup, "meanwhile", meanwhile)
    monkeypatch.setattr(
        training_data.sources, "load", lambda data: types.SimpleNamespace(classes=())
    )
    monkeypatch.setattr(training_data.runs, "build", lambda *_: None)
    monkeypatch.setattr(training_data.ready, "to_train", lambda *_: (None, None))
    monkeypatch.setattr(training_data.batches, "make_feed", lambda *_: None)
    run = RunDirectory(tmp_path)
    if started:
        run.best.touch()
    parsed = cli_flags.parse("[flags]", cli_flags.RUN, ["bin/train", "--data_dir=x", *PHASES])
    logger = types.SimpleNamespace(note=print)
    training_data.ingredients(parsed, cli_flags.recipe(parsed), run, 2, logger)
    assert warmup == expected
