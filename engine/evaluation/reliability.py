"""A model's calibration before and after temperature scaling."""

from __future__ import annotations

import dataclasses

from engine.evaluation import decision_rule
from engine.evaluation.calibration import (
    CalibrationBin,
    calibration_bins,
    cross_fit_probabilities,
    expected_calibration_error,
)
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.evaluate import Predictions


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The data of a reliability diagram, before and after temperature scaling.

    temperature: the decision rule's; 1 if none was fitted.
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
      rule: its temperature; a temperature of 1 was not fitted.
      fitted_on_these: whether the temperature was fitted on these predictions. It would look too
        good on them, so they are cross-fitted.
    """
    logits, labels = predictions.logits, predictions.labels
    before = decision_rule.probabilities(DEFAULT_RULE, logits)
    cross_fitted = fitted_on_these and rule.temperature != DEFAULT_RULE.temperature
    if cross_fitted:
        after = cross_fit_probabilities(logits, labels)
    else:
        after = decision_rule.probabilities(rule, logits)
    return Reliability(
        temperature=rule.temperature,
        error_before=expected_calibration_error(before, labels),
        error_after=expected_calibration_error(after, labels),
        bins_before=tuple(calibration_bins(before, labels)),
        bins_after=tuple(calibration_bins(after, labels)),
        cross_fitted=cross_fitted,
    )
