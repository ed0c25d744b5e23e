"""The best model of a run that is taken up."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core import files
from engine.core.errors import UserError
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.training.epoch_record import RunClock

SECOND = {"phase": "transfer", "epoch": 2, "val_accuracy": 0.5, "val_loss": 0.7}
THIRD = {"phase": "transfer", "epoch": 3, "val_accuracy": 0.9, "val_loss": 0.3}


def saved(place, standing) -> tuple[RunDirectory, np.ndarray]:
    run, weights = RunDirectory(place), np.arange(3.0) + standing["epoch"]
    files.write(run.best, checkpoints.pack({"model": [weights]}, {"classes": ["a"], **standing}))
    return run, weights


@pytest.mark.parametrize("known", [None, SECOND, THIRD])
def test_a_best_model_that_is_ahead_of_the_checkpoint_counts(tmp_path, known):
    run, weights = saved(tmp_path, THIRD)
    clock, progress = RunClock(), TrainState(best=known)
    clock.take_up(run, progress)
    assert progress.best == THIRD
    np.testing.assert_array_equal(clock.best, [weights])
    assert clock.best_written


def test_one_that_was_removed_is_asked_for(tmp_path):
    message = r"best.npz is gone, .*; put it back, or begin anew with --overwrite"
    with pytest.raises(UserError, match=message):
        RunClock().take_up(RunDirectory(tmp_path), TrainState(best=SECOND))


def test_before_the_first_epoch_there_is_none(tmp_path):
    clock, progress = RunClock(), TrainState()
    clock.best = [np.zeros(3)]
    clock.take_up(RunDirectory(tmp_path), progress)
    assert (clock.best, progress.best, clock.best_written) == (None, None, False)
