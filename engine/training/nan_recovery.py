"""A loss that is no number: what the run knows of it, and how it goes on.

    nan_events.json one entry each: where it happened, and from which step on the rate is halved
    nan_batch.csv   the examples of the first batch whose loss was no number

The rate of a step depends on what stands there alone, so a run that is killed afterwards goes on
as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.conversion import convert, parse_json
from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.core.files import write_csv, write_json
from engine.core.recipe import Phase
from engine.core.text import csv_cell
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory
from engine.training.metrics import TrainMetrics
from engine.training.state import NanEvent, PhaseState, TrainerState

MOST = 3
Groups = dict[str, list[np.ndarray]]  # of arrays, as `checkpoints.load` gives them
COLUMNS = ("path", "label", "example", "epoch", "view")


class NonFiniteLossError(Exception):
    """The loss of a step, counted over the run from 0, was no number, or what the step left was."""

    def __init__(self, phase: Phase, step: int, what: str, views: Any = None) -> None:
        """what: is no number. views: those of the phase, as in `DataLoader.train_batches`."""
        super().__init__(f"phase {phase.name!r}, step {step + 1}: {what}")
        self.phase, self.step, self.views = phase, step, views


def read(run: RunDirectory) -> list[NanEvent]:
    """Those of the run so far.

    Raises:
      UserError: the file is there and can't be read; the rates would be others without it.
    """
    try:
        entries = parse_json(run.nan_events.read_text("utf-8"))
        return list(convert(entries, tuple[NanEvent, ...], "nan_events"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, UserError, RecursionError) as error:
        raise UserError(
            f"{run.nan_events}: can't be read ({error}); begin anew with --overwrite"
        ) from None


def write(run: RunDirectory, nan_events: Sequence[NanEvent]) -> None:
    write_json(run.nan_events, [dataclasses.asdict(event) for event in nan_events])


def with_reduced_rate(
    rate: Callable[[int], float], before: Sequence[NanEvent], phase: Phase, start: int
) -> Callable[[int], float]:
    """The rate of each step of the phase, which began at step `start`, after these nan_events."""
    halved = [event.since - start for event in before if event.phase == phase.name]
    return lambda step: rate(step) * 0.5 ** sum(since <= step for since in halved)


def figures(run: TrainerState, stage: PhaseState) -> TrainMetrics:
    """The epoch's figures so far, fetched from the device.

    Raises:
      Diverged: a loss was no number.
    """
    progress, found = run.progress, stage.totals.read()
    if found.bad_step is not None:
        first = progress.phase_start + progress.epoch * run.job.steps_per_epoch
        what = f"the loss is {found.loss}"
        raise NonFiniteLossError(stage.phase, first + found.bad_step, what, stage.views)
    return found


def require_finite_loss(run: TrainerState, stage: PhaseState) -> None:
    """Nothing that is no good becomes a checkpoint.

    Raises:
      Diverged: a loss was no number, or the last update has left a variable that is none.
    """
    figures(run, stage)
    moved = [*stage.partition.variables, *stage.partition.statistics(stage.phase)]
    if not all(np.isfinite(variable.numpy()).all() for variable in moved):
        what = "its update left variables that are no numbers"
        raise NonFiniteLossError(stage.phase, run.progress.step - 1, what, stage.views)


def roll_back(run: TrainerState, error: NonFiniteLossError) -> tuple[TrainerState, Groups]:
    """Names the batch; gives the run as it goes on, and the checkpoint, empty for the beginning.

    Raises:
      UserError: it does not go on.
    """
    job, before = run.job, run.nan_events
    listed = _list(run, error)
    if job.on_nan == "stop" or len(before) == MOST:
        times = f", after the rate was halved {MOST} times" if job.on_nan != "stop" else ""
        raise UserError(
            f"{listed}{times}; lower the phase's learning_rate ({error.phase.learning_rate:g}) or "
            "give it clip_global_norm=1, with --overwrite"
        )
    progress, saved = checkpoints.load(job.run)
    if not saved and not run.initial_weights:
        raise UserError(
            f"{listed}; {job.run.checkpoints} has vanished, so there is nothing to go back to; "
            "begin anew with --overwrite"
        )
    after = [*before, NanEvent(error.phase.name, error.step, progress.step)]
    run.writer.attempt(lambda: write(job.run, after))  # else with the next checkpoint
    job.logger.note(f"{listed}; going back to step {progress.step} with half the learning rate")
    return dataclasses.replace(run, progress=progress, nan_events=after), saved


def _list(run: TrainerState, error: NonFiniteLossError) -> str:
    """What happened, and where the batch is listed if it could be."""
    job, views = run.job, (1, error.views) if error.views else ()
    with contextlib.suppress(UserError):  # an image that can't be read any more hides nothing
        stacked = next(iter(job.loader.train_batches(error.step, error.step + 1, *views)))
        batch = tf.nest.map_structure(lambda column: column[0], stacked)
        names, classes = job.loader.example_name, job.loader.classes
        if run.writer.attempt(lambda: list_batch(job.run, batch, names, classes)):
            return f"{error}; its images are listed in {job.run.nan_batch}"
    return str(error)


def list_batch(run: RunDirectory, batch: Batch, names: Callable[[int], str], classes: Any) -> None:
    """Writes `nan_batch.csv`, a row for each example of the batch."""
    columns = (batch.labels, batch.weights, batch.examples, batch.epochs, batch.views)
    rows = [
        {
            "path": names(int(example)),
            "label": csv_cell(classes[int(label)]),
            "example": int(example),
            "epoch": int(epoch),
            "view": int(view),
        }
        for label, weight, example, epoch, view in zip(*map(np.asarray, columns), strict=True)
        if weight
    ]
    write_csv(run.nan_batch, COLUMNS, rows)
