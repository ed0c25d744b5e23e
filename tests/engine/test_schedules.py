"""Schedules against NumPy, the source's formula, or values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.schedules import SCHEDULES, learning_rate, one_cycle

STEPS = 101
PROGRESS = np.linspace(0, 1, STEPS)


def cosines(places, values):
    """fastai's combined cosines: between two places start + (1 - cos(pi p)) (end - start) / 2."""

    def at(progress):
        right = np.clip(np.searchsorted(places, progress), 1, len(places) - 1)
        left, there = places[right - 1], places[right]
        part = (progress - left) / (there - left)
        a, b = values[right - 1], values[right]
        return a + (1 - np.cos(np.pi * part)) * (b - a) / 2

    return at


# name: options and the same in NumPy, of the progress 0 to 1
EXPECTED = {
    "constant": ({}, np.ones_like),
    "linear": ({"end": 0.2}, lambda p: np.interp(p, [0, 1], [1, 0.2])),
    "cosine": ({"end": 0.1}, lambda p: 0.1 + 0.9 * np.cos(np.pi * p / 2) ** 2),
    "step": (
        {"drops": 3, "factor": 0.5},
        lambda p: 0.5 ** np.searchsorted([0.25, 0.5, 0.75], p, "right"),
    ),
    "one_cycle": (
        {"rise": 0.4, "start": 0.1, "end": 0.01},
        cosines(np.array([0, 0.4, 1]), np.array([0.1, 1, 0.01])),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_follows_its_formula(name):
    options, formula = EXPECTED[name]
    rate = learning_rate(SCHEDULES[name], 3.0, STEPS, options)
    np.testing.assert_allclose(
        [rate(step) for step in range(STEPS)], 3.0 * formula(PROGRESS), rtol=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 9])
def test_a_rate_stays_between_nothing_and_its_peak(name, steps, warmup_steps):
    rate = learning_rate(SCHEDULES[name], 3.0, steps, {}, warmup_steps)
    found = np.array([rate(step) for step in range(max(steps, 1))])
    assert np.all((found >= 0) & (found <= 3.0))


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_beyond_the_end_keep_the_last_rate(name):
    rate = learning_rate(SCHEDULES[name], 3.0, 10, {}, 2)
    assert rate(9) == rate(10) == rate(1000)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_a_straight_line(name):
    rate = learning_rate(SCHEDULES[name], 3.0, 20, {}, 5)
    np.testing.assert_allclose([rate(step) for step in range(5)], np.arange(1, 6) * 3.0 / 5)


def test_a_schedule_comes_to_its_end_in_the_last_step():
    rate = learning_rate(SCHEDULES["cosine"], 3.0, 20, {}, 5)
    assert rate(5) == 3.0
    assert rate(19) == pytest.approx(0, abs=1e-15)
    assert rate(18) > 0


def test_steps_of_equal_length():
    rate = learning_rate(SCHEDULES["step"], 1.0, 9, {"drops": 1, "factor": 0.1})
    assert [rate(step) for step in range(9)] == [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_one_cycle_begins_peaks_and_ends_where_pytorch_has_it():
    """OneCycleLR(pct_start=0.3, div_factor=25, final_div_factor=1e4)."""
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.3) == pytest.approx(1)
    assert one_cycle(1.0) == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize("rise", [0, 1])
def test_one_cycle_may_only_fall_or_only_rise(rise):
    ends = one_cycle(0, rise, 0.1, 0.01), one_cycle(1, rise, 0.1, 0.01)
    assert ends == pytest.approx((1, 0.01) if rise == 0 else (0.1, 1))
