"""Calibration: the expected calibration error, and temperature scaling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.evaluation.decision_rule import log_probabilities

BINS = 15  # as in Guo et al. 2017
# Prior standard deviation of the log temperature. It weighs as little as an image or two, and keeps
# a model without mistakes on a small validation split from getting a temperature near 0.
LOG_TEMPERATURE_STD = 1.0
MAX_LOG_TEMPERATURE = 3.0  # in absolute value


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature at which logits / temperature have the lowest cross entropy.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2; with a normal
    prior on the logarithm of the temperature.

    Args:
      logits: [N, classes].
      labels: int [N].
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def cost(log_temperature: float) -> float:
        of_labels = log_probabilities(logits, np.exp(log_temperature))[rows, labels]
        return log_temperature**2 / (2 * LOG_TEMPERATURE_STD**2) - float(of_labels.sum())

    bounds = (-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE)
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x))


class CalibrationBin(NamedTuple):
    """The images whose largest probability is within (low, high]; means are 0 in an empty bin."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def calibration_bins(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> list[CalibrationBin]:
    """Returns accuracy by confidence, the probability of the predicted class.

    Args:
      probabilities: [N, classes].
      labels: int [N].
      bins: number of bins of equal width.
    """
    confidences, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights=of, minlength=bins) for of in (confidences, correct)]
    means = [np.divide(s, counts, out=np.zeros(bins), where=counts > 0) for s in sums]
    columns = (edges[:-1], edges[1:], counts, *means)
    return [
        CalibrationBin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> float:
    """Returns the mean distance between accuracy and confidence, over the images.

    Source: Naeini et al. 2015; bins of equal width over the largest probability, as Guo et al.
    """
    rows = calibration_bins(probabilities, labels, bins)
    return sum(row.images * abs(row.accuracy - row.confidence) for row in rows) / len(labels)


def cross_fit_probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns probabilities in which each half of the images has the other half's temperature.

    They show what temperature scaling does to images that it was not fitted on. A half is every
    other image of each class. float64 [N, classes].
    """
    half = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        half[members] = np.arange(len(members)) % 2
    probabilities = np.empty(np.shape(logits), np.float64)
    for side in (0, 1):
        temperature = fit_temperature(logits[half != side], labels[half != side])
        probabilities[half == side] = np.exp(log_probabilities(logits[half == side], temperature))
    return probabilities
