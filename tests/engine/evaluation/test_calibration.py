"""Known temperatures are recovered, and errors agree with hand and loop computations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
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
)


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


def test_fit_temperature_without_images_is_one():
    assert fit_temperature(np.zeros([0, 3]), np.zeros(0, int)) == pytest.approx(1, abs=1e-4)


def test_calibration_error_by_hand():
    """In (0.8, 0.9] two of 0.85 and 0.9, one correct; in (0.5, 0.6] one of 0.6, wrong."""
    probabilities = np.array([[0.85, 0.15], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 0, 1])
    rows = calibration_bins(probabilities, labels, 10)
    assert rows[8] == pytest.approx(CalibrationBin(0.8, 0.9, 2, 0.875, 0.5))
    assert rows[5] == pytest.approx(CalibrationBin(0.5, 0.6, 1, 0.6, 0.0))
    assert all(row[2:] == (0, 0, 0) for n, row in enumerate(rows) if n not in (5, 8))
    expected = 2 / 3 * abs(0.5 - 0.875) + 1 / 3 * 0.6
    assert expected_calibration_error(probabilities, labels, 10) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), bins=st.integers(1, 20))
def test_calibration_error_equals_a_loop_over_images(seed, count, bins):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.5] * 3, count)
    labels = random.integers(0, 3, count)
    total = 0.0
    for number in range(bins):
        inside = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(probabilities, labels, strict=True)
            if number / bins < max(row) <= (number + 1) / bins
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / count * abs(accuracy - confidence)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(total)


def test_calibration_bins_include_their_upper_edge():
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0], [0.500001, 0.499999], [0.75, 0.25]])
    rows = calibration_bins(probabilities, np.zeros(4, int), 4)
    assert [row.images for row in rows] == [0, 1, 2, 1]
    assert [(row.low, row.high) for row in rows] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    rows = calibration_bins(np.zeros([1, 2]), np.zeros(1, int))
    assert [row.images for row in rows] == [1] + [0] * (BINS - 1), "a confidence of 0"


@pytest.mark.parametrize(("temperature", "low", "high"), [(1.0, 0, 0.02), (3.0, 0.2, 1)])
def test_calibration_error_is_small_for_a_calibrated_model(temperature, low, high):
    logits, labels = draw(20_000, temperature)
    probabilities = scipy.special.softmax(logits, -1)
    assert low < expected_calibration_error(probabilities, labels) < high


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
