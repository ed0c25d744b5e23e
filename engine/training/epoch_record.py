"""What stays of a run: history, the best model, `result.json`."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.core.errors import UserError
from engine.core.files import write, write_csv, write_json
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Evaluation
from engine.loggers import plots
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.runs.lock import holds_lock
from engine.runtime.hardware import resident_memory
from engine.runtime.shutdown import ShutdownRequested
from engine.training.metrics import TrainMetrics

if TYPE_CHECKING:
    from engine.training.phase import PhaseState, TrainJob

COLUMNS = (
    "phase",
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "data_wait_fraction",
    "seconds",
    "resident_bytes",
)


class RunClock:
    """The time since the process began, and since the last checkpoint."""

    def __init__(self) -> None:
        self.mark = self.last_save = time.perf_counter()
        self.save_seconds = 0.0  # what the last checkpoint took
        self.first_step: float | None = None
        self.best: list[np.ndarray] | None = None  # the best weights of all phases so far
        self.best_written = False
        self.rule: DecisionRule | None = None  # how its answers are read, once that is known

    def take_up(self, run: RunDirectory, progress: TrainState) -> None:
        """The best model of a run that goes on.

        Its file may be ahead of the checkpoint, and counts: the same epoch once more comes out no
        better, and another, where the rate was halved meanwhile, has to be better than that.

        Raises:
          UserError: its file is not there any more, or damaged.
        """
        self.best, self.best_written = None, run.best.is_file()
        if self.best_written:
            self.best, values = load_model(run)
            progress.best = model_score(values)
        elif progress.best:
            raise UserError(
                f"{run.best} is gone, the best model so far of the run that goes on from "
                f"{run.checkpoints}; put it back, or begin anew with --overwrite"
            )

    def stepped(self) -> None:
        if self.first_step is None:
            self.first_step = process_seconds()

    def since_save(self) -> float:
        return time.perf_counter() - self.last_save

    def saved(self, progress: TrainState) -> None:
        """Adds the time since the last call to the run's total."""
        now = time.perf_counter()
        progress.total_seconds += now - self.mark
        self.mark = self.last_save = now


def process_seconds() -> float:
    """Seconds since this process was started, by the kernel's account."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def rank(standing: dict[str, Any]) -> tuple[float, float]:
    """What makes an epoch better than another: accuracy on validation, then a lower loss.

    One whose loss is no number has answers that are none, and is better than no other.
    """
    if not math.isfinite(standing["val_loss"]):
        return -1.0, 0.0
    return standing["val_accuracy"], -standing["val_loss"]


def model_score(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("phase", "epoch", "val_accuracy", "val_loss")}


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


def save_best(job: TrainJob, progress: TrainState, clock: RunClock) -> None:
    """Writes the best model, if there is one that no file holds; its labels travel with it."""
    if clock.best is None or (clock.best_written and job.run.best.exists()):
        return
    values = {"classes": list(job.loader.classes), "data": progress.data, **(progress.best or {})}
    if clock.rule:
        values["rule"] = dataclasses.asdict(clock.rule)
    write(job.run.best, checkpoints.pack({"model": clock.best}, values))
    clock.best_written = True


def save_decision_rule(run: RunDirectory, rule: DecisionRule) -> None:
    """Saves with the best model how its answers are to be read from now on.

    Raises:
      UserError: there is no model.
      OSError: it can't be written; the old one is as it was.
    """
    arrays, values = load_model(run)
    values["rule"] = dataclasses.asdict(rule)
    write(run.best, checkpoints.pack({"model": arrays}, values))


def load_model(run: RunDirectory) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The best model's arrays, and its classes and standing.

    Raises:
      UserError: the run has no model yet, or its file can't be read.
    """
    if not run.best.is_file():
        raise UserError(
            f"--run_dir={run.path}: holds no model yet; run bin/train until an epoch ends"
        )
    arrays, values = checkpoints.unpack(run.best)
    classes = values.get("classes") if isinstance(values, dict) else None
    names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if "model" not in arrays or not names:
        raise UserError(
            f"{run.best}: holds no weights with the names of their classes; "
            "train anew with --overwrite"
        )
    return arrays["model"], values


def decision_rule_of(run: RunDirectory, values: dict[str, Any]) -> DecisionRule:
    """The rule among the values of a model's file.

    Raises:
      UserError: it is none, or of other classes.
    """
    try:
        return decision_rule.parse(values.get("rule"), values["classes"])
    except UserError as error:
        raise UserError(f"{run.best}: {error}; train anew with --overwrite") from None


def dataset_identity_of(values: dict[str, Any]) -> dict[str, str]:
    """`Feed.identity` of what a model was trained on; empty where its file does not say."""
    known = values.get("data")
    return known if isinstance(known, dict) else {}


def write_history(run: RunDirectory, history: list[dict[str, Any]]) -> None:
    write_csv(run.history, COLUMNS, history)


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


@contextmanager
def noting_failure(run: RunDirectory) -> Iterator[None]:
    """Leaves a `result.json` that says how the block failed; the run can be gone on with."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, ShutdownRequested))
        status = "interrupted" if stopped else "failed"
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        with suppress(OSError):  # the failure itself matters more
            if holds_lock(run):
                write_json(run.result, {"status": status, "reason": reason})
        raise
