"""Whether a model is as sure as it is right, and the temperature that mends it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.evaluation.decision_rule import log_probabilities

BINS = 15  # as Guo et al. 2017
# Standard deviation of the logarithm of temperatures, were nothing known of the model. It counts as
# little as an image or two, and keeps a model that makes no mistake on its few validation images
# from being called infinitely sure.
SPREAD = 1.0
LIMIT = 3.0  # of the logarithm's size


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The likeliest temperature: logits / temperature has the lowest cross entropy.

    logits: [N, classes]. labels: int [N].
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2; with a normal
    prior on the temperature's logarithm.
    """
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(labels))

    def cost(logarithm: float) -> float:
        given = log_probabilities(logits, np.exp(logarithm))[rows, labels]
        return logarithm**2 / (2 * SPREAD**2) - float(given.sum())

    return float(np.exp(minimize_scalar(cost, bounds=(-LIMIT, LIMIT), method="bounded").x))


class CalibrationBin(NamedTuple):
    """The images whose largest probability is within (low, high]; means are 0 where none is."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[CalibrationBin]:
    """How often the likeliest class was right, by how likely it was.

    chances: probabilities [N, classes]. labels: int [N].
    """
    sureness, right = chances.max(-1), chances.argmax(-1) == labels
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.ceil(sureness * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=of, minlength=bins) for of in (sureness, right)]
    means = [np.divide(s, counts, out=np.zeros(bins), where=counts > 0) for s in sums]
    columns = (edges[:-1], edges[1:], counts, *means)
    return [
        CalibrationBin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of accuracy and confidence, over the images.

    Source: Naeini et al. 2015; bins of equal width over the largest probability, as Guo et al.
    """
    rows = reliability(chances, labels, bins)
    return sum(row.images * abs(row.accuracy - row.confidence) for row in rows) / len(labels)


def cross_fitted(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities, each image's by the temperature of the half that it is not in.

    What the temperature does to images that it was not fitted on. The halves are every other
    image of each class. float64 [N, classes].
    """
    half = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        half[members] = np.arange(len(members)) % 2
    chances = np.empty(np.shape(logits), np.float64)
    for side in (0, 1):
        temperature = fit_temperature(logits[half != side], labels[half != side])
        chances[half == side] = np.exp(log_probabilities(logits[half == side], temperature))
    return chances
