"""What a rule's temperature does: whether the model is as sure as it is right, before and after."""

from __future__ import annotations

import dataclasses

from engine.evaluation import calibration, decision_rule
from engine.evaluation.calibration import CalibrationBin
from engine.evaluation.decision_rule import PLAIN, DecisionRule
from engine.evaluation.evaluate import Predictions


@dataclasses.dataclass(frozen=True)
class Reliability:
    """error_before, error_after: expected calibration errors, 0 to 1, without the temperature and
    with it; the bins are what they are made of. crossed: each image is read by the temperature
    of the half that it is not in.
    """

    temperature: float
    error_before: float
    error_after: float
    bins_before: tuple[CalibrationBin, ...]
    bins_after: tuple[CalibrationBin, ...]
    crossed: bool


def measure_reliability(
    answers: Predictions, rule: DecisionRule, fitted_on_these: bool
) -> Reliability:
    """Before: by the plain softmax. After: by the rule's temperature.

    fitted_on_these: the temperature comes from these very answers. On them it would look better
      than it is, so each image is read by the temperature of the half that it is not in. A rule
      that is at 1 was fitted on none.
    """
    logits, labels = answers.logits, answers.labels
    before = decision_rule.probabilities(PLAIN, logits)
    crossed = fitted_on_these and rule.temperature != PLAIN.temperature
    if crossed:
        after = calibration.cross_fitted(logits, labels)
    else:
        after = decision_rule.probabilities(rule, logits)
    return Reliability(
        temperature=rule.temperature,
        error_before=calibration.calibration_error(before, labels),
        error_after=calibration.calibration_error(after, labels),
        bins_before=tuple(calibration.reliability(before, labels)),
        bins_after=tuple(calibration.reliability(after, labels)),
        crossed=crossed,
    )
