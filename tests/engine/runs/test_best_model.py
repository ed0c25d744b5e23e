"""The best model of a run that resumes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core import files
from engine.core.errors import UserError
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, load_best_model
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory

SECOND = {"phase": "transfer", "epoch": 2, "val_accuracy": 0.5, "val_loss": 0.7}
THIRD = {"phase": "transfer", "epoch": 3, "val_accuracy": 0.9, "val_loss": 0.3}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path)


@pytest.fixture
def best(run) -> BestModel:
    return BestModel(run, ["a"])


@pytest.mark.parametrize("score", [None, SECOND, THIRD])
def test_resume_with_best_model_newer_than_checkpoint_uses_it(run, best, score):
    weights = np.arange(3.0)
    files.write(run.best, checkpoints.pack({"model": [weights]}, {"classes": ["a"], **THIRD}))
    written, progress = run.best.read_bytes(), TrainState(best=score)
    best.resume(progress)
    assert progress.best == THIRD
    np.testing.assert_array_equal(best.weights, [weights])
    best.save(TrainState())
    assert run.best.read_bytes() == written, "it was up to date"


def test_resume_without_best_model_file_is_refused(best):
    message = r"best.npz: missing, .*; restore it, or start over with --overwrite"
    with pytest.raises(UserError, match=message):
        best.resume(TrainState(best=SECOND))


def test_resume_before_first_epoch_has_no_best_model(run, best):
    progress = TrainState()
    best.weights = [np.zeros(3)]
    best.resume(progress)
    best.save(progress)
    assert (best.weights, progress.best, run.best.exists()) == (None, None, False)


@pytest.mark.parametrize("values", [[], {"classes": 3}, {"classes": [3]}, {"classes": ["a"]}])
def test_best_model_without_classes_or_weights_is_refused(run, values):
    group = "other" if values == {"classes": ["a"]} else "model"
    run.best.write_bytes(checkpoints.pack({group: [np.arange(3.0)]}, values))
    with pytest.raises(UserError, match=r"best.npz: holds no weights .* --overwrite"):
        load_best_model(run)
