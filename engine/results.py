"""What stays of a run: history, the best model, `result.json`."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from engine import checkpoints, plots
from engine.checkpoints import Progress
from engine.evaluation import evaluate
from engine.rundir import RunDir, write, write_csv, write_json
from engine.specs import Recipe, UserError

if TYPE_CHECKING:
    from engine.loop import Job, Stage

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
)


class Clock:
    """The time since the process began, and since the last checkpoint."""

    def __init__(self) -> None:
        self.mark = self.last_save = time.perf_counter()
        self.first_step: float | None = None

    def stepped(self) -> None:
        if self.first_step is None:
            self.first_step = process_seconds()

    def since_save(self) -> float:
        return time.perf_counter() - self.last_save

    def saved(self, progress: Progress) -> None:
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
    """What makes an epoch better than another: accuracy on validation, then a lower loss."""
    return standing["val_accuracy"], -standing["val_loss"]


def standing(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("phase", "epoch", "val_accuracy", "val_loss")}


def save_model(job: Job, best: dict[str, Any]) -> None:
    """The model as it is now becomes the run's best; its labels travel with it."""
    values = {"classes": list(job.feed.classes), **best}
    write(job.run.best, checkpoints.pack({"model": job.classifier.model.weights}, values))


def load_model(run: RunDir) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The best model's arrays, and its classes and standing.

    Raises:
      UserError: the run has no model yet.
    """
    if not run.best.is_file():
        raise UserError(
            f"--run_dir={run.path}: holds no model yet; run bin/train until an epoch ends"
        )
    arrays, values = checkpoints.unpack(run.best)
    return arrays["model"], values


def write_history(run: RunDir, recipe: Recipe, history: list[dict[str, Any]]) -> None:
    write_csv(run.history, COLUMNS, history)
    write(run.plot, plots.history(history, [phase.name for phase in recipe.phases]))


def phase_result(job: Job, stage: Stage, progress: Progress) -> dict[str, Any]:
    rows = [row for row in progress.history if row["phase"] == stage.phase.name]
    trained = progress.step - progress.phase_start
    result = {
        "name": stage.phase.name,
        "epochs": progress.epoch,
        "steps": trained,
        "trainable_variables": len(stage.split.variables),
        "trainable_parameters": sum(math.prod(v.shape) for v in stage.split.variables),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.median([row["images_per_second"] for row in rows] or [0])),
    }
    if hasattr(stage.optimizer, "inner_optimizer"):
        result["skipped_steps"] = trained - int(stage.optimizer.inner_optimizer.iterations)
    return result


def conclude(job: Job, progress: Progress, eval_step: Callable, clock: Clock) -> dict[str, Any]:
    """Puts the best weights into the model, reads the test part once, and writes `result.json`."""
    if not progress.history:
        raise UserError("no phase has an epoch to train; give a phase epochs=1 or more")
    arrays, _ = load_model(job.run)
    checkpoints.restore(job.classifier.model.weights, arrays, str(job.run.best))
    result: dict[str, Any] = {
        "status": "finished",
        "classes": list(job.feed.classes),
        "best": progress.best,
        "final": standing(progress.history[-1]),
    }
    if job.feed.test:
        test = evaluate(eval_step, job.feed.test(), len(job.feed.classes))
        result["test"] = {"accuracy": test.accuracy, "loss": test.loss, "count": test.count}
    clock.saved(progress)
    result |= {
        "phases": progress.phases,
        "seconds_to_first_step": clock.first_step,
        "seconds_total": progress.total_seconds,
        "peak_memory_bytes": peak_memory(),
        "software": software(),
        "machine": machine(),
    }
    write_json(job.run.result, result)
    return result


@contextmanager
def noting_failure(run: RunDir) -> Iterator[None]:
    """Leaves a `result.json` that says how the block failed; the run can be gone on with."""
    try:
        yield
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        with suppress(OSError):  # the failure itself matters more
            write_json(run.result, {"status": status, "reason": reason})
        raise


def peak_memory() -> dict[str, int]:
    """Bytes: of this process on the host, and of each GPU."""
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for place, _ in enumerate(tf.config.list_physical_devices("GPU")):
        peak[f"gpu_{place}"] = tf.config.experimental.get_memory_info(f"GPU:{place}")["peak"]
    return peak


def software() -> dict[str, str]:
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **versions}


def machine() -> dict[str, Any]:
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [detail.get("device_name", "unknown") for detail in details],
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
