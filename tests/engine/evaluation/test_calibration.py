"""Known temperatures are recovered, and errors agree with a loop over images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.calibration import (
    BINS,
    LOG_TEMPERATURE_STD,
    MAX_LOG_TEMPERATURE,
    CalibrationBin,
    calibration_bins,
    cross_fit_probabilities,
    expected_calibration_error,
    fit_temperature,
    measure_reliability,
    try_temperature,
)
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from tests.engine.evaluation.random_predictions import random_predictions


def draw(count: int, temperature: float, classes: int = 4, seed: int = 0):
    """Logits, and labels drawn by the softmax of logits / temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes))
    probabilities = scipy.special.softmax(logits / temperature, -1)
    labels = (probabilities.cumsum(-1) < random.random((count, 1))).sum(-1)
    return logits.astype(np.float32), labels.clip(0, classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 0.8, 1.0, 1.7, 4.0])
def test_fit_temperature_recovers_the_true_one(temperature):
    logits, labels = draw(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize(("count", "temperature"), [(3, 1), (20, 0.5), (20, 3), (200, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fit_temperature_beats_a_grid(count, temperature, seed):
    logits, labels = draw(count, temperature, seed=seed)

    def log_posterior(temperature: float) -> float:
        log_likelihoods = scipy.special.log_softmax(logits.astype(float) / temperature, -1)
        prior = -(np.log(temperature) ** 2) / (2 * LOG_TEMPERATURE_STD**2)
        return prior + sum(row[label] for row, label in zip(log_likelihoods, labels, strict=True))

    grid = np.exp(np.linspace(-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE, 400))
    best = max(map(log_posterior, grid))
    assert log_posterior(fit_temperature(logits, labels)) >= best - 1e-6


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_fit_temperature_without_mistakes_stays_finite(sign, count):
    logits = np.tile(np.float32([5.0 * sign, 0.0]), (count, 1))
    temperature = fit_temperature(logits, np.zeros(count, int))
    assert np.exp(-MAX_LOG_TEMPERATURE) < temperature < np.exp(MAX_LOG_TEMPERATURE)
    assert (temperature < 1) == (sign > 0)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60))
def test_calibration_error_equals_a_loop_over_images(seed, count):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.5] * 3, count)
    labels = random.integers(0, 3, count)
    total = 0.0
    for number in range(BINS):
        inside = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(probabilities, labels, strict=True)
            if number / BINS < max(row) <= (number + 1) / BINS
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / count * abs(accuracy - confidence)
    bins = calibration_bins(probabilities, labels)
    assert expected_calibration_error(bins) == pytest.approx(total)


def test_calibration_bins_include_their_upper_edge():
    probabilities = np.array([[0.6, 0.4], [0.0, 1.0], [0.600001, 0.399999], [0.64, 0.36]])
    rows = calibration_bins(probabilities, np.array([0, 0, 1, 0]))
    occupied = {
        8: CalibrationBin(8 / 15, 9 / 15, 1, 0.6, 1.0),
        9: CalibrationBin(9 / 15, 10 / 15, 2, 0.6200005, 0.5),
        14: CalibrationBin(14 / 15, 1.0, 1, 1.0, 0.0),
    }
    for number, row in enumerate(rows):
        empty = CalibrationBin(number / 15, (number + 1) / 15, 0, 0.0, 0.0)
        assert row == pytest.approx(occupied.get(number, empty))
    rows = calibration_bins(np.zeros([1, 2]), np.zeros(1, int))
    assert [row.images for row in rows] == [1] + [0] * (BINS - 1), "a confidence of 0"


def test_cross_fit_uses_the_other_halfs_temperature():
    """Halves are every other image of each class; computed here one by one."""
    logits, labels = draw(41, 2.0, classes=3)
    halves: list[list[int]] = [[], []]
    counts = [0, 0, 0]
    for row, label in enumerate(labels):
        halves[counts[label] % 2].append(row)
        counts[label] += 1
    probabilities = cross_fit_probabilities(logits, labels)
    temperatures = [fit_temperature(logits[half], labels[half]) for half in halves]
    assert temperatures[0] != pytest.approx(temperatures[1], rel=1e-3)
    for own, other in ((0, 1), (1, 0)):
        expected = scipy.special.softmax(logits[halves[own]] / temperatures[other], -1)
        np.testing.assert_allclose(probabilities[halves[own]], expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cross_fit_of_few_images_is_finite(count):
    probabilities = cross_fit_probabilities(np.float32([[1, 0]] * count), np.zeros(count, int))
    np.testing.assert_allclose(probabilities.sum(-1), 1)


@pytest.mark.parametrize(
    ("count", "temperature", "helps"),
    [(2000, 2.0, True), (2000, 0.5, True), (2000, 1.0, False), (20, 1.0, False), (2, 2.0, False)],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_temperature_helps_only_beyond_noise(count, temperature, helps, seed):
    trial = try_temperature(*draw(count, temperature, seed=seed))
    assert trial.helps == helps


def test_temperature_of_one_image_has_no_error_and_helps_nobody():
    trial = try_temperature(*draw(1, 2.0))
    assert (trial.gain_error, trial.helps) == (None, False)
    json.dumps(trial._asdict(), allow_nan=False)


def test_temperature_trial_is_cross_fitted():
    logits, labels = draw(300, 1.6)
    trial, crossed = try_temperature(logits, labels), cross_fit_probabilities(logits, labels)
    before = scipy.special.log_softmax(logits.astype(float), -1)
    gains = np.log(crossed[range(300), labels]) - before[range(300), labels]
    assert trial.temperature == fit_temperature(logits, labels)
    assert trial.error_after == expected_calibration_error(calibration_bins(crossed, labels))
    assert (trial.gain, trial.gain_error) == pytest.approx((gains.mean(), scipy.stats.sem(gains)))


def test_temperature_with_a_larger_calibration_error_does_not_help():
    """Cross entropy can fall though the error of the bins rises."""
    trial = try_temperature(*draw(2000, 2.0))
    assert not trial._replace(error_after=trial.error_before).helps


PREDICTIONS = random_predictions(200, margin=1)


def error(temperature: float) -> float:
    probabilities = scipy.special.softmax(PREDICTIONS.logits.astype(float) / temperature, -1)
    return expected_calibration_error(calibration_bins(probabilities, PREDICTIONS.labels))


def test_reliability_on_other_images_uses_the_rules_temperature():
    measured = measure_reliability(PREDICTIONS, DecisionRule(2.5), False)
    assert (measured.temperature, measured.cross_fitted) == (2.5, False)
    assert measured.error_before == pytest.approx(error(1))
    assert measured.error_after == pytest.approx(error(2.5))
    assert measured.bins_before != measured.bins_after


def test_reliability_on_the_fitted_images_is_cross_fitted():
    measured = measure_reliability(PREDICTIONS, DecisionRule(2.5), True)
    assert measured.cross_fitted
    assert measured.error_before == pytest.approx(error(1))
    crossed = cross_fit_probabilities(PREDICTIONS.logits, PREDICTIONS.labels)
    assert measured.bins_after == calibration_bins(crossed, PREDICTIONS.labels)
    assert measured.error_after == expected_calibration_error(measured.bins_after)
    assert measured.error_after != pytest.approx(error(2.5))


def test_reliability_of_the_default_rule_is_not_cross_fitted():
    measured = measure_reliability(PREDICTIONS, DEFAULT_RULE, True)
    assert measured.error_after == measured.error_before
