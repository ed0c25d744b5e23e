"""Calibration: temperature scaling, the expected calibration error, and both on one split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule, log_probabilities
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import Z

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


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[CalibrationBin, ...]:
    """Returns accuracy by confidence, the probability of the predicted class, in BINS bins.

    Args:
      probabilities: [N, classes].
      labels: int [N].
    """
    confidences, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    bin_of = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bin_of, minlength=BINS)
    sums = [np.bincount(bin_of, weights=of, minlength=BINS) for of in (confidences, correct)]
    means = [total / np.maximum(counts, 1) for total in sums]
    columns = [column.tolist() for column in (edges[:-1], edges[1:], counts, *means)]
    return tuple(map(CalibrationBin, *columns))


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Returns the mean distance between accuracy and confidence, over the images.

    Source: Naeini et al. 2015; bins of equal width over the largest probability, as Guo et al.
    """
    distances = sum(row.images * abs(row.accuracy - row.confidence) for row in bins)
    return distances / sum(row.images for row in bins)


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


class TemperatureTrial(NamedTuple):
    """What a fitted temperature does to images that it was not fitted on, by cross-fitting.

    Attributes:
      temperature: fitted on all images.
      error_before, error_after: expected calibration errors, 0 to 1.
      gain, gain_error: by how much the mean cross entropy falls, in nats, and its standard error;
        None of a single image.
    """

    temperature: float
    error_before: float
    error_after: float
    gain: float
    gain_error: float | None

    @property
    def helps(self) -> bool:
        """Whether calibration improves beyond noise.

        A temperature leaves the order of the classes as it is, so what it changes of the cross
        entropy, a proper score, is calibration. The standard error is that of paired differences.
        """
        improves = self.error_after < self.error_before
        return improves and self.gain_error is not None and self.gain > Z * self.gain_error


def try_temperature(logits: np.ndarray, labels: np.ndarray) -> TemperatureTrial:
    """Fits a temperature, and measures what it is worth on images that it was not fitted on.

    Args:
      logits: [N, classes].
      labels: int [N].
    """
    before, after = np.exp(log_probabilities(logits)), cross_fit_probabilities(logits, labels)
    error_before, error_after = (
        expected_calibration_error(calibration_bins(each, labels)) for each in (before, after)
    )
    rows, tiny = np.arange(len(labels)), np.finfo(np.float64).tiny
    gains = np.log(np.maximum(after[rows, labels], tiny))
    gains -= np.log(np.maximum(before[rows, labels], tiny))
    return TemperatureTrial(
        temperature=fit_temperature(logits, labels),
        error_before=error_before,
        error_after=error_after,
        gain=float(gains.mean()),
        gain_error=float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None,
    )


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The data of a reliability diagram, before and after temperature scaling.

    temperature: the decision rule's; 1 if it has none.
    error_before, error_after: expected calibration errors, 0 to 1.
    bins_before, bins_after: what the errors are computed from.
    cross_fitted: whether each half of the images was scaled with the other half's temperature.
    """

    temperature: float
    error_before: float
    error_after: float
    bins_before: tuple[CalibrationBin, ...]
    bins_after: tuple[CalibrationBin, ...]
    cross_fitted: bool


def measure_reliability(
    predictions: Predictions, rule: DecisionRule, fitted_on_these: bool
) -> Reliability:
    """Measures the calibration by the plain softmax and by the rule's temperature.

    Args:
      predictions: what to measure.
      rule: its temperature; 1 is none.
      fitted_on_these: whether the temperature was fitted on these predictions. It would look too
        good on them, so they are cross-fitted.
    """
    logits, labels = predictions.logits, predictions.labels
    cross_fitted = fitted_on_these and rule.temperature != DEFAULT_RULE.temperature
    if cross_fitted:
        scaled = cross_fit_probabilities(logits, labels)
    else:
        scaled = decision_rule.probabilities(rule, logits)
    before = calibration_bins(decision_rule.probabilities(DEFAULT_RULE, logits), labels)
    after = calibration_bins(scaled, labels)
    errors = expected_calibration_error(before), expected_calibration_error(after)
    return Reliability(rule.temperature, *errors, before, after, cross_fitted)
