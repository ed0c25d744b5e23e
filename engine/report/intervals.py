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
    multinomial draw gives it. A class that is not in a draw has an F1 of 0 there, and no part in
    that draw's mean.

    confusion: int [classes, classes], not all 0.
    Source: Efron 1979, Bootstrap Methods; percentile intervals. Where many classes have only a few
    pictures each, five or so, that of the mean lies too low.
    """
    found, occurring = _drawn_f1(confusion, draws, np.random.default_rng(seed))
    edges = [(1 - level) / 2, (1 + level) / 2]
    each = np.quantile(found, edges, axis=0).T
    low, high = np.quantile(macro(found, occurring), edges)
    return [Interval(*row) for row in each.tolist()], Interval(float(low), float(high))


def macro(f1: np.ndarray, occurring: np.ndarray) -> np.ndarray:
    """The mean over the classes that are given or predicted at all, as scikit-learn has it.

    f1: float [..., classes]. occurring: bool, of the same shape; one class at least.
    """
    return f1.mean(-1, where=occurring)


def _drawn_f1(
    confusion: np.ndarray, draws: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """F1, and whether the class is in the draw: float64 and bool [draws, classes]."""
    from scipy.sparse import csr_array

    given, predicted = np.nonzero(confusion)  # of a thousand classes most cells are empty
    numbers, cells, count = confusion[given, predicted], np.arange(len(given)), confusion.sum()
    shape, ones = (len(given), len(confusion)), np.ones(len(given))
    # Matrices that add up cells: those of a class's row and its column, and its diagonal cell.
    by_class = csr_array((ones, (cells, given)), shape) + csr_array(
        (ones, (cells, predicted)), shape
    )
    diagonal = csr_array(((given == predicted).astype(float), (cells, given)), shape)
    right, either = [], []
    step = max(1, _AT_ONCE // len(given))
    for start in range(0, draws, step):
        drawn = random.multinomial(int(count), numbers / count, min(step, draws - start))
        right.append(drawn @ diagonal)
        either.append(drawn @ by_class)
    sums = np.concatenate(either)
    occurring = sums > 0
    twice = 2 * np.concatenate(right)
    return np.divide(twice, sums, out=np.zeros_like(sums), where=occurring), occurring
