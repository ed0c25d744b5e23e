"""What is recorded of an epoch and of a phase."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.evaluation.evaluate import Evaluation
from engine.runs.checkpoints import TrainState
from engine.runtime.hardware import resident_memory
from engine.training.metrics import TrainMetrics
from engine.training.phase import PhaseTrainer


def epoch_row(
    trainer: PhaseTrainer, state: TrainState, metrics: TrainMetrics, evaluation: Evaluation
) -> dict[str, Any]:
    """Returns an epoch's row of history, from its training metrics and its validation."""
    return {
        "phase": trainer.phase.name,
        "epoch": state.epoch,
        "step": state.step,
        "train_loss": metrics.loss,
        "train_accuracy": metrics.accuracy,
        "val_loss": evaluation.loss,
        "val_accuracy": evaluation.accuracy,
        "learning_rate": trainer.rate(state.step - state.phase_start - 1),
        "images_per_second": metrics.examples / state.seconds,
        "data_wait_fraction": state.wait_seconds / state.seconds,
        "seconds": state.seconds + state.fill_seconds + state.eval_seconds,
        "resident_bytes": resident_memory(),
    }


def phase_result(trainer: PhaseTrainer, state: TrainState) -> dict[str, Any]:
    """Returns a phase's entry in `result.json`."""
    rows = [row for row in state.history if row["phase"] == trainer.phase.name]
    steps = state.step - state.phase_start
    variables = trainer.partition.variables
    result = {
        "name": trainer.phase.name,
        "epochs": state.epoch,
        "steps": steps,
        "trainable_variables": len(variables),
        "trainable_parameters": sum(math.prod(variable.shape) for variable in variables),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.median([row["images_per_second"] for row in rows] or [0])),
    }
    if hasattr(trainer.optimizer, "inner_optimizer"):
        applied = int(np.asarray(trainer.optimizer.inner_optimizer.iterations))
        result["skipped_steps"] = steps - applied
    return result
