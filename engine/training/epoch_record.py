"""What stays of a run: history, the best model, `result.json`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.core.files import write
from engine.evaluation.evaluate import Evaluation
from engine.loggers import plots
from engine.runs.checkpoints import TrainState
from engine.runtime.hardware import resident_memory
from engine.training.metrics import TrainMetrics
from engine.training.state import PhaseState, TrainJob


def epoch_row(
    stage: PhaseState, progress: TrainState, figures: TrainMetrics, found: Evaluation
) -> dict[str, Any]:
    """An epoch's row of history. figures: of its training; found: on the validation part."""
    return {
        "phase": stage.phase.name,
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": figures.loss,
        "train_accuracy": figures.accuracy,
        "val_loss": found.loss,
        "val_accuracy": found.accuracy,
        "learning_rate": stage.rate(progress.step - progress.phase_start - 1),
        "images_per_second": figures.examples / progress.seconds,
        "data_wait_fraction": progress.wait_seconds / progress.seconds,
        "seconds": progress.seconds + progress.fill_seconds + progress.eval_seconds,
        "resident_bytes": resident_memory(),
    }


def draw_history(job: TrainJob, progress: TrainState) -> None:
    names = [phase.name for phase in job.recipe.phases]
    if progress.history:
        write(job.run.plot, plots.history(progress.history, names))


def phase_result(stage: PhaseState, progress: TrainState) -> dict[str, Any]:
    rows = [row for row in progress.history if row["phase"] == stage.phase.name]
    trained = progress.step - progress.phase_start
    result = {
        "name": stage.phase.name,
        "epochs": progress.epoch,
        "steps": trained,
        "trainable_variables": len(stage.partition.variables),
        "trainable_parameters": sum(math.prod(v.shape) for v in stage.partition.variables),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.median([row["images_per_second"] for row in rows] or [0])),
    }
    if hasattr(stage.optimizer, "inner_optimizer"):
        result["skipped_steps"] = trained - int(
            np.asarray(stage.optimizer.inner_optimizer.iterations)
        )
    return result
