"""What a temperature does, before and after."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from engine.evaluation import calibration
from engine.evaluation.decision_rule import PLAIN, DecisionRule
from engine.evaluation.reliability import measure_reliability
from tests.engine.report.made import answers

MADE = answers(200, better=1)


def error(chances) -> float:
    return calibration.calibration_error(chances, MADE.labels)


def softmax(temperature: float) -> np.ndarray:
    return scipy.special.softmax(MADE.logits.astype(float) / temperature, -1)


def test_on_other_images_the_temperature_is_the_rules():
    found = measure_reliability(MADE, DecisionRule(2.5), False)
    assert found.temperature == 2.5
    assert found.error_before == pytest.approx(error(softmax(1)))
    assert found.error_after == pytest.approx(error(softmax(2.5)))
    for bins in (found.bins_before, found.bins_after):
        assert sum(row.images for row in bins) == 200
    assert found.bins_before != found.bins_after


def test_on_the_images_it_was_fitted_on_each_goes_by_the_other_halfs():
    found = measure_reliability(MADE, DecisionRule(2.5), True)
    assert found.error_before == pytest.approx(error(softmax(1)))
    crossed = calibration.cross_fitted(MADE.logits, MADE.labels)
    assert found.error_after == error(crossed) != pytest.approx(error(softmax(2.5)))
    assert found.bins_after == tuple(calibration.reliability(crossed, MADE.labels))


def test_a_plain_rule_was_fitted_on_nothing():
    found = measure_reliability(MADE, PLAIN, True)
    assert found.error_after == found.error_before
