"""Temperatures that are known, errors by hand and by a loop of their own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.calibration import (
    BINS,
    LIMIT,
    SPREAD,
    CalibrationBin,
    calibration_error,
    cross_fitted,
    fit_temperature,
    reliability,
)


def drawn(count: int, temperature: float, classes: int = 4, seed: int = 0):
    """Logits, and labels drawn by the softmax of logits / temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes))
    chances = scipy.special.softmax(logits / temperature, -1)
    labels = (chances.cumsum(-1) < random.random((count, 1))).sum(-1)
    return logits.astype(np.float32), labels.clip(0, classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 0.8, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_found(temperature):
    logits, labels = drawn(20_000, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def posterior(temperature: float, logits, labels) -> float:
    """Logarithm of what the temperature is likely by, but for a constant."""
    given_ = scipy.special.log_softmax(logits.astype(float) / temperature, -1)
    prior = -(np.log(temperature) ** 2) / (2 * SPREAD**2)
    return prior + sum(row[label] for row, label in zip(given_, labels, strict=True))


@pytest.mark.parametrize(("count", "temperature"), [(3, 1), (20, 0.5), (20, 3), (200, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_temperature_of_a_grid_is_likelier(count, temperature, seed):
    logits, labels = drawn(count, temperature, seed=seed)
    found = posterior(fit_temperature(logits, labels), logits, labels)
    grid = np.exp(np.linspace(-LIMIT, LIMIT, 400))
    assert found >= max(posterior(t, logits, labels) for t in grid) - 1e-6


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_a_few_images_all_right_or_all_wrong_make_it_not_infinitely_sure(sign, count):
    logits = np.tile(np.float32([5.0 * sign, 0.0]), (count, 1))
    temperature = fit_temperature(logits, np.zeros(count, int))
    assert np.exp(-LIMIT) < temperature < np.exp(LIMIT)
    assert (temperature < 1) == (sign > 0)


def test_of_no_images_nothing_is_learnt():
    assert fit_temperature(np.zeros([0, 3]), np.zeros(0, int)) == pytest.approx(1, abs=1e-4)


def test_error_by_hand():
    """In (0.8, 0.9] two of 0.85 and 0.9, one right; in (0.5, 0.6] one of 0.6, wrong."""
    chances = np.array([[0.85, 0.15], [0.1, 0.9], [0.6, 0.4]])
    labels = np.array([0, 0, 1])
    rows = reliability(chances, labels, 10)
    assert rows[8] == pytest.approx(CalibrationBin(0.8, 0.9, 2, 0.875, 0.5))
    assert rows[5] == pytest.approx(CalibrationBin(0.5, 0.6, 1, 0.6, 0.0))
    assert all(row[2:] == (0, 0, 0) for place, row in enumerate(rows) if place not in (5, 8))
    expected = 2 / 3 * abs(0.5 - 0.875) + 1 / 3 * 0.6
    assert calibration_error(chances, labels, 10) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60), bins=st.integers(1, 20))
def test_error_by_a_loop_over_the_images(seed, count, bins):
    random = np.random.default_rng(seed)
    chances = random.dirichlet([0.5] * 3, count)
    labels = random.integers(0, 3, count)
    total = 0.0
    for number in range(bins):
        inside = [
            (max(row), int(np.argmax(row) == label))
            for row, label in zip(chances, labels, strict=True)
            if number / bins < max(row) <= (number + 1) / bins
        ]
        if inside:
            sureness, right = np.mean(inside, axis=0)
            total += len(inside) / count * abs(right - sureness)
    assert calibration_error(chances, labels, bins) == pytest.approx(total)


def test_every_image_is_in_one_bin_and_edges_belong_below():
    """A half is in (0.25, 0.5] and one in the last; the edges are those of equal parts."""
    chances = np.array([[0.5, 0.5], [1.0, 0.0], [0.500001, 0.499999], [0.75, 0.25]])
    rows = reliability(chances, np.zeros(4, int), 4)
    assert [row.images for row in rows] == [0, 1, 2, 1]
    assert [(row.low, row.high) for row in rows] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]


def test_a_sureness_of_nothing_is_in_the_first_bin():
    rows = reliability(np.zeros([1, 2]), np.zeros(1, int))
    assert [row.images for row in rows] == [1] + [0] * (BINS - 1)


def test_a_model_that_is_as_sure_as_it_is_right_has_a_small_error():
    logits, labels = drawn(20_000, 1.0)
    chances = scipy.special.softmax(logits, -1)
    assert calibration_error(chances, labels) < 0.02
    unsure, labels = drawn(20_000, 3.0)
    assert calibration_error(scipy.special.softmax(unsure, -1), labels) > 0.2


def test_each_image_goes_by_the_temperature_of_the_other_half():
    """Halves are every other image of each class; worked out here one by one."""
    logits, labels = drawn(41, 2.0, classes=3)
    halves: list[list[int]] = [[], []]
    seen = [0, 0, 0]
    for place, label in enumerate(labels):
        halves[seen[label] % 2].append(place)
        seen[label] += 1
    found = cross_fitted(logits, labels)
    temperatures = [fit_temperature(logits[half], labels[half]) for half in halves]
    assert temperatures[0] != pytest.approx(temperatures[1], rel=1e-3)
    for own, other in ((0, 1), (1, 0)):
        expected = scipy.special.softmax(logits[halves[own]] / temperatures[other], -1)
        np.testing.assert_allclose(found[halves[own]], expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_images_are_no_trouble(count):
    found = cross_fitted(np.float32([[1, 0]] * count), np.zeros(count, int))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(-1), 1)
