"""How far a figure may be off by chance, so few pictures as it was measured on."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


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


def f1_intervals(confusion: np.ndarray, level: float = LEVEL) -> list[Interval]:
    """Around the F1 of each class; (0, 1) for one that is neither given nor predicted.

    Of the pictures that are of a class or are taken for it, the share s that is both is a share
    like any other, and F1 = 2 s / (1 + s) rises with it: the ends are those of Wilson's interval.

    confusion: int [classes, classes], rows the given labels.
    Source: Lam, Gopal & Qian 2023, Confidence Intervals for the F1 Score: A Comparison of Four
    Methods.
    """
    right = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - right
    shares = (wilson(int(r), int(n), level) for r, n in zip(right, either, strict=True))
    return [Interval(*(2 * s / (1 + s) for s in ends)) for ends in shares]


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 of the classes that are given or predicted at all, as scikit-learn has it.

    confusion: int [classes, classes], not all 0.
    """
    f1, occurring = _f1(confusion)
    return float(f1[occurring].mean())


def macro_f1_interval(confusion: np.ndarray, level: float = LEVEL) -> Interval:
    """Around `macro_f1`, were other pictures drawn, as many of each class as here.

    By the delta method, and three things that matter where classes are small. z² pictures that
    never were are added, half of them right, so that no mistake among few is not taken for none
    ever. Each class's variance is the unbiased one of a sample. And F1 is not linear, so that its
    mean over many small classes is off the same way in every sample: that is taken out, to second
    order. A class with a single picture has no variance to be seen: where a tenth of
    the classes are such, the interval is too narrow (it held the true value 48 times in 100 where
    all were, 92 where a tenth were).

    confusion: int [classes, classes], rows the given labels, not all 0; two classes or more.
    Source: Takahashi et al. 2022, Confidence interval for micro-averaged F1 and macro-averaged F1
    scores (the derivatives); Agresti & Coull 1998, Approximate Is Better than "Exact" for Interval
    Estimation of Binomial Proportions (the added pictures); Cochran 1977, Sampling Techniques,
    chapter 5 (the variance of a stratified sample).
    """
    z, here = NormalDist().inv_cdf((1 + level) / 2), macro_f1(confusion)
    padded, (_, occurring) = _padded(confusion, z * z), _f1(confusion)
    middle = _f1(padded)[0][occurring].mean() - _bias(confusion)
    half = z * np.sqrt(_variance(padded, confusion.sum(1), occurring))
    low, high = min(middle - half, here), max(middle + half, here)
    return Interval(float(max(low, 0)), float(min(high, 1)))


def _f1(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each class, 0 for those that do not occur; and which do."""
    sums = counts.sum(0) + counts.sum(1)
    twice, occurring = 2.0 * np.diag(counts), sums > 0
    return np.divide(twice, sums, out=np.zeros(len(counts)), where=occurring), occurring


def _padded(confusion: np.ndarray, extra: float) -> np.ndarray:
    """With so many pictures more, of the classes as they come; wrong ones go where others go."""
    given = confusion.sum(1) / confusion.sum()
    towards = np.tile(confusion.sum(0) + confusion.sum(1) + 1.0, (len(confusion), 1))
    np.fill_diagonal(towards, 0)
    wrong = towards / towards.sum(1, keepdims=True)
    return confusion + extra / 2 * given[:, None] * (np.eye(len(confusion)) + wrong)


def _variance(padded: np.ndarray, given: np.ndarray, occurring: np.ndarray) -> float:
    """Of the mean F1. given: how many pictures of each class there were before some were added."""
    right, rows = np.diag(padded), padded.sum(1)
    sums = np.where(occurring, padded.sum(0) + rows, 1)
    less = np.where(occurring, 2 * right / sums**2, 0)
    # What a picture more in a cell adds to the sum of all F1.
    adds = -(less[:, None] + less)
    np.fill_diagonal(adds, np.where(occurring, 2 * (sums - 2 * right) / sums**2, 0))
    mean = np.divide((padded * adds).sum(1), rows, out=np.zeros(len(rows)), where=rows > 0)
    spread = (padded * (adds - np.where(given > 1, mean, 0)[:, None]) ** 2).sum(1)
    unbiased = spread * np.where(given > 1, given / np.maximum(given - 1, 1), 1)
    return float(unbiased.sum() / occurring.sum() ** 2)


def _bias(confusion: np.ndarray) -> float:
    """By how much more or less than in all pictures the mean F1 is in a sample, on average.

    To second order, with the variances of the numbers of a class's pictures that are right and of
    others that are taken for it.
    """
    right, given = np.diag(confusion), confusion.sum(1)
    cells = confusion * (1 - confusion / np.maximum(given, 1)[:, None])
    of_right, of_others = np.diag(cells), cells.sum(0) - np.diag(cells)
    sums = given + confusion.sum(0)
    curved = 2 * (right * of_others - (sums - right) * of_right)
    return float(np.mean((curved / np.maximum(sums, 1.0) ** 3)[sums > 0]))
