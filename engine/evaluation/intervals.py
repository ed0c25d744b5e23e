"""Confidence intervals of accuracy and F1, and F1 itself.

A confusion matrix is int [classes, classes]; rows are labels, columns predictions.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    low: float
    high: float


def wilson(correct: int, count: int, level: float = LEVEL) -> Interval:
    """Returns the interval of the share correct / count; (0, 1) if the count is 0.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference;
    without continuity correction.
    """
    from scipy.stats import binomtest

    if not count:
        return Interval(0.0, 1.0)
    interval = binomtest(correct, count).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


def f1_scores(confusion: np.ndarray) -> np.ndarray:
    """Returns the F1 of each class, 0 for a class without labels and predictions."""
    sums = confusion.sum(0) + confusion.sum(1)
    return np.divide(2.0 * np.diag(confusion), sums, out=np.zeros(len(sums)), where=sums > 0)


def f1_intervals(confusion: np.ndarray, level: float = LEVEL) -> list[Interval]:
    """Returns the interval of each class's F1; (0, 1) for a class without labels and predictions.

    Among the images that are labelled or predicted as a class, the share s that is both is a plain
    share, and F1 = 2 s / (1 + s) rises with it, so the ends are those of Wilson's interval.

    Source: Lam, Gopal & Qian 2023, Confidence Intervals for the F1 Score: A Comparison of Four
    Methods.
    """
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    shares = (wilson(int(b), int(e), level) for b, e in zip(both, either, strict=True))
    return [Interval(*(2 * s / (1 + s) for s in ends)) for ends in shares]


def macro_f1(confusion: np.ndarray) -> float:
    """Returns the mean F1 of the classes with labels or predictions, as scikit-learn does."""
    return float(f1_scores(confusion)[_occurs(confusion)].mean())


def macro_f1_interval(
    confusion: np.ndarray, level: float = LEVEL, draws: int = 1000, seed: int = 0
) -> Interval:
    """Returns the interval of `macro_f1` over samples with as many images of each class.

    Its width comes from a bootstrap and its centre from a formula, because the mean over small
    classes needs three corrections. z² pseudo-images, half of them correct, are added before
    drawing, so that no mistake among few images is not taken for certainty. One image less than a
    class has is drawn, with a larger weight, since small classes would vary too little. And F1 is
    not linear, so its mean over many small classes is biased in every sample; this bias is
    subtracted, to second order. A class with a single image has no visible variance: where a tenth
    of the classes have one, the interval is too narrow (it covered the true value 48 times in 100
    where all classes had one image, 92 times where a tenth had).

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (the interval by
    the bootstrap's standard error); Rao & Wu 1988, Resampling Inference With Complex Survey
    Data (one less is drawn); Agresti & Coull 1998, Approximate Is Better than "Exact" for Interval
    Estimation of Binomial Proportions (the pseudo-images).

    Args:
      confusion: of two classes or more, not all 0.
      level: of confidence.
      draws: number of bootstrap samples.
      seed: of the bootstrap.
    """
    z, measured = NormalDist().inv_cdf((1 + level) / 2), macro_f1(confusion)
    occurs = _occurs(confusion)
    centre = f1_scores(_with_pseudo_images(confusion, z * z))[occurs].mean() - _bias(confusion)
    samples = _bootstrap_f1(confusion, z * z, draws, np.random.default_rng(seed))
    half_width = z * samples[:, occurs].mean(1).std()
    low, high = min(centre - half_width, measured), max(centre + half_width, measured)
    return Interval(float(max(low, 0)), float(min(high, 1)))


def _occurs(confusion: np.ndarray) -> np.ndarray:
    return confusion.sum(0) + confusion.sum(1) > 0


def _with_pseudo_images(confusion: np.ndarray, extra: float) -> np.ndarray:
    """Adds `extra` images in proportion to the classes' sizes, half correct and half wrong."""
    shares = confusion.sum(1) / confusion.sum()
    wrong = _wrong_shares(confusion)
    return confusion + extra / 2 * shares[:, None] * (np.eye(len(confusion)) + wrong)


def _wrong_shares(confusion: np.ndarray) -> np.ndarray:
    """Where a wrongly predicted image of each class goes: in proportion to the classes' counts."""
    shares = np.tile(confusion.sum(0) + confusion.sum(1) + 1.0, (len(confusion), 1))
    np.fill_diagonal(shares, 0)
    return shares / shares.sum(1, keepdims=True)


def _bootstrap_f1(
    confusion: np.ndarray, extra: float, draws: int, random: np.random.Generator
) -> np.ndarray:
    """Draws from `_with_pseudo_images`; the F1 of each class, float64 [draws, classes]."""
    counts, wrong = confusion.sum(1), _wrong_shares(confusion)
    added = extra / (counts.sum() + extra)
    correct, predicted = np.zeros([draws, len(counts)]), np.zeros([draws, len(counts)])
    for label in np.flatnonzero(counts):
        one_less = max(counts[label] - 1, 1)
        weight = counts[label] / one_less
        cells = np.union1d(np.flatnonzero(confusion[label]), label)
        shares = (1 - added) * confusion[label, cells] / counts[label]
        shares += added / 2 * (cells == label)
        numbers = random.multinomial(one_less, [*shares, added / 2], draws)
        correct[:, label] = weight * numbers[:, np.searchsorted(cells, label)]
        predicted[:, cells] += weight * numbers[:, :-1]
        scattered = np.flatnonzero(numbers[:, -1])  # draws with a wrong pseudo-image, which are few
        predicted[scattered] += weight * random.multinomial(numbers[scattered, -1], wrong[label])
    sums = counts + predicted
    return np.divide(2 * correct, sums, out=np.zeros_like(sums), where=sums > 0)


def _bias(confusion: np.ndarray) -> float:
    """Returns the bias of a sample's mean F1, to second order.

    It follows from the variances of the number of a class's images that are predicted correctly,
    and of others that are predicted as this class.
    """
    correct, labelled = np.diag(confusion), confusion.sum(1)
    variances = confusion * (1 - confusion / np.maximum(labelled, 1)[:, None])
    of_correct = np.diag(variances)
    of_others = variances.sum(0) - of_correct
    sums = labelled + confusion.sum(0)
    curvature = 2 * (correct * of_others - (sums - correct) * of_correct)
    return float(np.mean((curvature / np.maximum(sums, 1.0) ** 3)[sums > 0]))
