"""Calibration before and after temperature scaling."""

from __future__ import annotations

import pytest
import scipy.special

from engine.evaluation import calibration
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.reliability import measure_reliability
from tests.engine.evaluation.random_predictions import random_predictions

PREDICTIONS = random_predictions(200, margin=1)


def error(temperature: float) -> float:
    probabilities = scipy.special.softmax(PREDICTIONS.logits.astype(float) / temperature, -1)
    return calibration.expected_calibration_error(probabilities, PREDICTIONS.labels)


def test_reliability_on_other_images_uses_the_rules_temperature():
    measured = measure_reliability(PREDICTIONS, DecisionRule(2.5), False)
    assert measured.temperature == 2.5
    assert measured.error_before == pytest.approx(error(1))
    assert measured.error_after == pytest.approx(error(2.5))
    for bins in (measured.bins_before, measured.bins_after):
        assert sum(row.images for row in bins) == 200
    assert measured.bins_before != measured.bins_after


def test_reliability_on_the_fitted_images_is_cross_fitted():
    measured = measure_reliability(PREDICTIONS, DecisionRule(2.5), True)
    assert measured.error_before == pytest.approx(error(1))
    crossed = calibration.cross_fit_probabilities(PREDICTIONS.logits, PREDICTIONS.labels)
    expected = calibration.expected_calibration_error(crossed, PREDICTIONS.labels)
    assert measured.error_after == expected != pytest.approx(error(2.5))
    bins = calibration.calibration_bins(crossed, PREDICTIONS.labels)
    assert measured.bins_after == tuple(bins)


def test_reliability_of_the_default_rule_is_not_cross_fitted():
    measured = measure_reliability(PREDICTIONS, DEFAULT_RULE, True)
    assert measured.error_after == measured.error_before
