"""The training log of a run, from its files: epochs, time, memory, machine and software."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from engine.evaluation.intervals import Interval, wilson
from engine.runs.directory import RunDirectory
from engine.runs.history import read_history

# The keys of `spent` in `result.json`.
SPENT = (
    *("seconds", "fill_seconds", "eval_seconds", "save_seconds", "wait_seconds"),
    *("start_seconds", "prepare_seconds", "compile_seconds", "final_seconds"),
)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The columns of `history.csv` that a report shows."""

    phase: str
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class PhaseLog:
    """What a report shows of a phase in `result.json`."""

    name: str
    epochs: int
    trainable_parameters: int


@dataclasses.dataclass(frozen=True)
class SplitResult:
    """The saved model on a split, when the run ended."""

    accuracy: float
    loss: float
    count: int

    @property
    def accuracy_interval(self) -> Interval:
        return wilson(round(self.accuracy * self.count), self.count)


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """A finished run, from its first epoch to its last.

    verdict: sentences on how it went.
    splits: the results by split: validation, and test where there is one.
    best_epoch: index of the saved model's epoch in `epochs`; None if it is not there.
    spent: seconds by activity, the keys of SPENT.
    peak_memory_bytes: by device.
    """

    verdict: tuple[str, ...]
    splits: dict[str, SplitResult]
    epochs: tuple[Epoch, ...]
    best_epoch: int | None
    phases: tuple[PhaseLog, ...]
    spent: dict[str, float]
    seconds_to_first_step: float | None
    seconds_total: float
    peak_memory_bytes: dict[str, int]
    software: dict[str, Any]
    machine: dict[str, Any]


def read(run: RunDirectory) -> TrainingLog | None:
    """Returns None if the run is not finished, or its files are missing or invalid."""
    result = run.read_result()
    if result.get("status") != "finished":
        return None
    try:
        epochs = tuple(_parse_row(Epoch, row) for row in read_history(run))
        return _training_log(result, epochs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _training_log(result: Mapping[str, Any], epochs: tuple[Epoch, ...]) -> TrainingLog:
    best = (result["best"]["phase"], result["best"]["epoch"])
    indices = [index for index, row in enumerate(epochs) if (row.phase, row.epoch) == best]
    first, peaks = result["seconds_to_first_step"], result["peak_memory_bytes"]
    splits = [name for name in ("validation", "test") if name in result]
    return TrainingLog(
        verdict=tuple(map(str, result["verdict"])),
        splits={name: _parse_row(SplitResult, result[name]) for name in splits},
        epochs=epochs,
        best_epoch=indices[0] if indices else None,
        phases=tuple(_parse_row(PhaseLog, phase) for phase in result["phases"]),
        spent={name: _number(result["spent"].get(name, 0)) for name in SPENT},
        seconds_to_first_step=None if first is None else _number(first),
        seconds_total=_number(result["seconds_total"]),
        peak_memory_bytes={name: int(value) for name, value in peaks.items() if value is not None},
        software=dict(result["software"]),
        machine=dict(result["machine"]),
    )


def _parse_row(kind: Any, row: Mapping[str, Any]) -> Any:
    """Returns the dataclass `kind` with its fields taken from a row, each in its type."""
    parsers: dict[Any, Callable[[Any], Any]] = {"str": str, "int": int, "float": _number}
    return kind(**{f.name: parsers[f.type](row[f.name]) for f in dataclasses.fields(kind)})


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number
