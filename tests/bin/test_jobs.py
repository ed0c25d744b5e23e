"""A run made ready: what is compiled while the pictures are looked at."""

from __future__ import annotations

import contextlib
import types

import _flags
import _jobs
import pytest

from engine.rundir import RunDir

PHASES = ("--phase=head(epochs=0)", "--phase=middle(epochs=1)", "--phase=top(epochs=1)")


@pytest.mark.parametrize(("started", "expected"), [(False, ["middle"]), (True, [])])
def test_the_first_phase_that_has_epochs_is_compiled_early(
    tmp_path, monkeypatch, started, expected
):
    """Nothing of a run that is taken up, whose weights are not in the model yet."""
    early = []

    @contextlib.contextmanager
    def meanwhile(made, recipe, phases, devices):
        early.extend(phase.name for phase in phases)
        yield None

    monkeypatch.setattr(_jobs.early, "meanwhile", meanwhile)
    monkeypatch.setattr(_jobs.sources, "load", lambda data: types.SimpleNamespace(classes=()))
    monkeypatch.setattr(_jobs.runs, "build", lambda *_: None)
    monkeypatch.setattr(_jobs.ready, "to_train", lambda *_: (None, None))
    monkeypatch.setattr(_jobs.batches, "make_feed", lambda *_: None)
    run = RunDir(tmp_path)
    if started:
        run.best.touch()
    parsed = _flags.parse("[flags]", _flags.RUN, ["bin/train", "--data_dir=x", *PHASES])
    watch = types.SimpleNamespace(note=print)
    _jobs.ingredients(parsed, _flags.recipe(parsed), run, 2, watch)
    assert early == expected
