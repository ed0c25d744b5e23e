"""TensorBoard's logger: a full disk costs what it would show, and not the run."""

from __future__ import annotations

import types

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.loggers.base import StepMetrics
from engine.loggers.tensorboard import TensorBoardLogger
from engine.runs import history
from engine.runs.directory import RunDirectory
from tests.engine import small


def full(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


@pytest.mark.parametrize("failing", ["create_file_writer", "scalar", "image"])
def test_full_disk_does_not_end_a_run(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(tf.summary, failing, full)
    model = tf.keras.Sequential([tf.keras.Input([2]), tf.keras.layers.Dense(2)])
    board = TensorBoardLogger(RunDirectory(tmp_path), ("blue", "red"), model)
    board.begin(small.recipe(), np.zeros((1, 4, 4, 3), np.uint8))
    board.step(StepMetrics(Phase("head"), 1, 1, 1, 2, 1, 8, 0.5, 0.5, 1e-3, 100.0, 0.0))
    row = {**dict.fromkeys(history.COLUMNS, 0.0), "phase": "head", "epoch": 1, "step": 2}
    board.epoch(row, types.SimpleNamespace(confusion=np.eye(2, dtype=int)), best=True)
    board.end()
