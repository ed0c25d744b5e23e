"""A loss that is no number: what the run knows of it, and how it goes on.

    setbacks.json   one entry each: where it happened, and from which step on the rate is halved
    nan_batch.csv   the examples of the first batch whose loss was no number

The rate of a step depends on what stands there alone, so a run that is killed afterwards goes on
as one that was not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from engine import checkpoints
from engine.conversion import convert, parse_json
from engine.rundir import RunDir, write_csv, write_json
from engine.saving import Saving
from engine.specs import Batch, Phase, UserError

if TYPE_CHECKING:
    from engine.stages import Job

MOST = 3
COLUMNS = ("path", "label", "example", "epoch", "view")


class Diverged(Exception):  # noqa: N818 (what to do about it is decided elsewhere)
    """The loss of a step, counted over the run from 0, was no number."""

    def __init__(self, phase: Phase, step: int, loss: float, views: Any = None) -> None:
        """views: those of the phase, as `Feed.train` takes them."""
        super().__init__(f"phase {phase.name!r}, step {step + 1}: the loss is {loss}")
        self.phase, self.step, self.views = phase, step, views


@dataclasses.dataclass(frozen=True)
class Setback:
    """phase: its name. step: with the loss. since: the step from which on the rate is halved."""

    phase: str
    step: int
    since: int


def read(run: RunDir) -> list[Setback]:
    """Those of the run so far.

    Raises:
      UserError: the file is there and can't be read; the rates would be others without it.
    """
    try:
        entries = parse_json(run.setbacks.read_text("utf-8"))
        return list(convert(entries, tuple[Setback, ...], "setbacks"))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, UserError, RecursionError) as error:
        raise UserError(
            f"{run.setbacks}: can't be read ({error}); begin anew with --overwrite"
        ) from None


def write(run: RunDir, setbacks: Sequence[Setback]) -> None:
    write_json(run.setbacks, [dataclasses.asdict(setback) for setback in setbacks])


def slowed(
    rate: Callable[[int], float], before: Sequence[Setback], phase: Phase, start: int
) -> Callable[[int], float]:
    """The rate of each step of the phase, which began at step `start`, after these setbacks."""
    halved = [setback.since - start for setback in before if setback.phase == phase.name]
    return lambda step: rate(step) * 0.5 ** sum(since <= step for since in halved)


def go_back(job: Job, error: Diverged, before: Sequence[Setback], saving: Saving) -> list[Setback]:
    """Names the batch, and lets the run go on from its last checkpoint; gives its setbacks now.

    Raises:
      UserError: it does not go on.
    """
    views = (1, error.views) if error.views else ()
    stacked = next(iter(job.feed.train(error.step, error.step + 1, *views)))
    batch = tf.nest.map_structure(lambda column: column[0], stacked)
    saving.attempt(lambda: list_batch(job.run, batch, job.feed.name, job.feed.classes))
    listed = f"{error}; its pictures are listed in {job.run.nan_batch}"
    if job.on_nan == "stop" or len(before) == MOST:
        times = f", after the rate was halved {MOST} times" if job.on_nan != "stop" else ""
        raise UserError(
            f"{listed}{times}; lower the phase's learning_rate ({error.phase.learning_rate:g}) or "
            "give it clip_norm=1, with --overwrite"
        )
    since = checkpoints.load(job.run)[0].step
    after = [*before, Setback(error.phase.name, error.step, since)]
    saving.insist(lambda: write(job.run, after))
    job.watch.note(f"{listed}; going back to step {since} with half the learning rate")
    return after


def list_batch(run: RunDir, batch: Batch, names: Callable[[int], str], classes: Any) -> None:
    """Writes `nan_batch.csv`, a row for each example of the batch."""
    columns = (batch.labels, batch.weights, batch.examples, batch.epochs, batch.views)
    rows = [
        {
            "path": names(int(example)),
            "label": classes[int(label)],
            "example": int(example),
            "epoch": int(epoch),
            "view": int(view),
        }
        for label, weight, example, epoch, view in zip(*map(np.asarray, columns), strict=True)
        if weight
    ]
    write_csv(run.nan_batch, COLUMNS, rows)
