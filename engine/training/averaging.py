"""Averages of a phase's weights: what is evaluated and saved in place of the raw ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from engine.core.recipe import Phase
from engine.evaluation.evaluate import Evaluation
from engine.optim.averages import Soup, parse_average
from engine.runs.best_model import rank
from engine.runs.checkpoints import TrainState


class Candidate(NamedTuple):
    """The weights at the end of an epoch.

    row: the epoch's row of history.
    """

    row: dict[str, Any]
    weights: list[np.ndarray]


class WeightAverage:
    """Without an average of weights; the classes below have one.

    Attributes:
      arrays: what a checkpoint holds of it beside the optimizer's variables.
    """

    arrays: Sequence[np.ndarray] = ()

    def evaluated(self) -> contextlib.AbstractContextManager:
        """Within the block, the model has the weights that are evaluated and saved."""
        return contextlib.nullcontext()

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Takes the epoch's row of history, while the model has the weights that it is about."""

    def end_phase(self, evaluate: Callable[[], Evaluation]) -> dict[str, Any] | None:
        """Leaves the model with the weights that the phase ends with.

        Returns:
          what the phase's entry in `result.json` says of it, and a new model's val_accuracy and
          val_loss; None where no other model was made than those of the epochs.
        """
        return None


class _Ema(WeightAverage):
    def __init__(self, variables: list[keras.Variable], averages: Sequence[keras.Variable]) -> None:
        self.variables, self.averages = variables, averages

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        raw = [variable.numpy() for variable in self.variables]
        _assign(self.variables, self.averages)
        try:
            yield
        finally:
            _assign(self.variables, raw)

    def end_phase(self, evaluate: Callable[[], Evaluation]) -> None:
        _assign(self.variables, self.averages)


class _Soup(WeightAverage):
    """The candidates are sorted, the best first."""

    def __init__(self, variables: list[keras.Variable], size: int) -> None:
        self.variables, self.size = variables, size
        self.candidates: list[Candidate] = []

    def restore(self, rows: list[dict[str, Any]], arrays: Sequence[np.ndarray]) -> None:
        """Takes the arrays of a checkpoint.

        Args:
          rows: of the phase's history.
        """
        by_epoch, count = {row["epoch"]: row for row in rows}, len(self.variables)
        for index, epoch in enumerate(arrays[0]):
            weights = arrays[1 + index * count : 1 + (index + 1) * count]
            self.candidates.append(Candidate(by_epoch[int(epoch)], list(weights)))

    @property
    def arrays(self) -> Sequence[np.ndarray]:  # type: ignore[override]
        epochs = np.array([candidate.row["epoch"] for candidate in self.candidates], np.int32)
        return [epochs, *(array for candidate in self.candidates for array in candidate.weights)]

    def end_epoch(self, row: dict[str, Any]) -> None:
        others = [candidate for candidate in self.candidates if rank(candidate.row) >= rank(row)]
        if len(others) < self.size:
            new = Candidate(row, [variable.numpy() for variable in self.variables])
            self.candidates.insert(len(others), new)
            del self.candidates[self.size :]

    def end_phase(self, evaluate: Callable[[], Evaluation]) -> dict[str, Any] | None:
        if len(self.candidates) < 2:
            return None
        raw = [variable.numpy() for variable in self.variables]
        best = self.candidates[0].row
        chosen, score = self.candidates[:1], best
        for candidate in self.candidates[1:]:
            _assign(self.variables, _mean([*chosen, candidate]))
            evaluation = evaluate()
            if evaluation.accuracy >= score["val_accuracy"]:
                chosen.append(candidate)
                score = {"val_accuracy": evaluation.accuracy, "val_loss": evaluation.loss}
        gains = rank(score) > rank(best)
        _assign(self.variables, _mean(chosen) if gains else raw)
        if not gains:
            return None
        return {"epochs": [candidate.row["epoch"] for candidate in chosen], **score}


def make(
    phase: Phase,
    variables: list[keras.Variable],
    optimizer: Any,
    state: TrainState,
    arrays: Sequence[np.ndarray],
) -> WeightAverage:
    """Returns the phase's average of these variables.

    Args:
      optimizer: the phase's, whose state has the moving averages.
      state, arrays: those of the checkpoint from which the phase resumes, or none.
    """
    average = parse_average(phase)
    if average is None:
        return WeightAverage()
    if not isinstance(average, Soup):
        return _Ema(variables, getattr(optimizer, "inner_optimizer", optimizer).averages)
    soup = _Soup(variables, average.epochs)
    if arrays:
        soup.restore([row for row in state.history if row["phase"] == phase.name], arrays)
    return soup


def _mean(candidates: list[Candidate]) -> list[np.ndarray]:
    columns = zip(*(candidate.weights for candidate in candidates), strict=True)
    means = (np.mean(column, axis=0, dtype=np.float64) for column in columns)
    return [np.asarray(mean, np.float32) for mean in means]


def _assign(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
