"""How far a figure may be off by chance, so few pictures as it was measured on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
_AT_ONCE = 1 << 22  # numbers of the draws that are held together


class Interval(NamedTuple):
    low: float
    high: float


def wilson(right: int, count: int, level: float = LEVEL) -> Interval:
    """Around the share right / count; (0, 1) where there is nothing to count.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference;
    without correction for continuity.
    """
    from scipy.stats import binomtest

    if not count:
        return Interval(0.0, 1.0)
    found = binomtest(right, count).proportion_ci(level, method="wilson")
    return Interval(float(found.low), float(found.high))


def bootstrap_f1(
    confusion: np.ndarray, level: float = LEVEL, draws: int = 2000, seed: int = 0
) -> tuple[list[Interval], Interval]:
    """Around the F1 of each class, and around their mean as `macro` has it.

    The pictures are drawn anew with replacement: of each cell of the matrix as many as a
    multinomial draw gives it. A class that is not in a draw has an F1 of 0 there.

    confusion: int [classes, classes], not all 0.
    Source: Efron 1979, Bootstrap Methods; percentile intervals.
    """
    found = _drawn_f1(confusion, draws, np.random.default_rng(seed))
    edges = [(1 - level) / 2, (1 + level) / 2]
    each = np.quantile(found, edges, axis=0).T
    low, high = np.quantile(macro(found, confusion), edges)
    return [Interval(*row) for row in each.tolist()], Interval(float(low), float(high))


def macro(f1: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """The mean over the classes that are given or predicted at all, as scikit-learn has it.

    f1: [..., classes] -> [...].
    """
    return f1[..., (confusion.sum(0) + confusion.sum(1)) > 0].mean(-1)


def _drawn_f1(confusion: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """float64 [draws, classes]."""
    from scipy.sparse import csr_array

    given, predicted = np.nonzero(confusion)  # of a thousand classes most cells are empty
    numbers, cells, count = confusion[given, predicted], np.arange(len(given)), confusion.sum()
    shape, ones = (len(given), len(confusion)), np.ones(len(given))
    # Matrices that add up cells: those of a class's row and its column, and its diagonal cell.
    by_class = csr_array((ones, (cells, given)), shape) + csr_array(
        (ones, (cells, predicted)), shape
    )
    diagonal = csr_array(((given == predicted).astype(float), (cells, given)), shape)
    pieces = []
    for start in range(0, draws, step := max(1, _AT_ONCE // len(given))):
        number = min(step, draws - start)
        drawn = random.multinomial(int(count), numbers / count, number)
        right, either = drawn @ diagonal, drawn @ by_class
        pieces.append(np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0))
    return np.concatenate(pieces)
