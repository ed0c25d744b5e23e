"""Schedules against NumPy, the source's formula, or values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.optim.schedules import SCHEDULES, learning_rate, one_cycle


def cosines(places, values):
    """fastai's combined cosines: between two places start + (1 - cos(pi p)) (end - start) / 2."""

    def at(progress):
        right = np.clip(np.searchsorted(places, progress), 1, len(places) - 1)
        left, there = places[right - 1], places[right]
        part = (progress - left) / (there - left)
        a, b = values[right - 1], values[right]
        return a + (1 - np.cos(np.pi * part)) * (b - a) / 2

    return at


shares = some.floats(0, 1)
# name: what its options may be, and the same in NumPy, of the progress 0 to 1
EXPECTED = {
    "constant": ({}, np.ones_like),
    "linear": ({"end": shares}, lambda p, end: np.interp(p, [0, 1], [1, end])),
    "cosine": ({"end": shares}, lambda p, end: end + (1 - end) * np.cos(np.pi * p / 2) ** 2),
    "step": (
        {"drops": some.integers(0, 60), "factor": shares},
        lambda p, drops, factor: factor ** np.floor(np.minimum(p * (drops + 1) + 1e-9, drops)),
    ),
    "one_cycle": (
        {"rise": some.floats(0.01, 0.99), "start": shares, "end": shares},
        lambda p, rise, start, end: cosines(np.array([0, rise, 1]), np.array([start, 1, end]))(p),
    ),
}
peaks = some.floats(1e-8, 1e3)


def options(name):
    return some.fixed_dictionaries(EXPECTED[name][0])


def rates(name, peak, steps, chosen, warmup_steps=0):
    rate = learning_rate(SCHEDULES[name], peak, steps, chosen, warmup_steps)
    return np.array([rate(step) for step in range(steps)])


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None, max_examples=40)
@given(data=some.data(), peak=peaks, steps=some.integers(2, 300))
def test_schedule_follows_its_formula_with_any_options(name, data, peak, steps):
    chosen = data.draw(options(name))
    expected = peak * EXPECTED[name][1](np.linspace(0, 1, steps), **chosen)
    np.testing.assert_allclose(rates(name, peak, steps, chosen), expected, atol=1e-9 * peak)


@pytest.mark.parametrize("name", SCHEDULES)
@settings(deadline=None, max_examples=40)
@given(data=some.data(), peak=peaks, warmup=some.integers(1, 100), after=some.integers(0, 100))
def test_warm_up_is_linear_and_delays_the_schedule(name, data, peak, warmup, after):
    chosen = data.draw(options(name))
    values = rates(name, peak, warmup + after, chosen, warmup)
    np.testing.assert_allclose(values[:warmup], peak * np.arange(1, warmup + 1) / warmup)
    np.testing.assert_array_equal(values[warmup:], rates(name, peak, after, chosen))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 9])
def test_rate_of_very_few_steps_is_from_zero_to_its_peak(name, steps, warmup_steps):
    rate = learning_rate(SCHEDULES[name], 3.0, steps, {}, warmup_steps)
    values = np.array([rate(step) for step in range(max(steps, 1))])
    assert np.all((values >= 0) & (values <= 3.0))


@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_beyond_the_last_step_is_the_last_one(name):
    rate = learning_rate(SCHEDULES[name], 3.0, 10, {}, 2)
    assert rate(9) == rate(10) == rate(1000)


def test_step_schedule_drops_after_equal_lengths():
    rate = learning_rate(SCHEDULES["step"], 1.0, 9, {"drops": 1, "factor": 0.1})
    assert [rate(step) for step in range(9)] == [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1]
    rate = learning_rate(SCHEDULES["step"], 1.0, 221, {"drops": 21, "factor": 0.5})
    dropped = [step for step in range(1, 221) if rate(step) < rate(step - 1)]
    assert dropped == list(range(10, 211, 10)), "15 / 22 * 22 is no less than 15"


def test_one_cycle_starts_peaks_and_ends_as_pytorch():
    """OneCycleLR(pct_start=0.3, div_factor=25, final_div_factor=1e4)."""
    assert one_cycle(0.0) == pytest.approx(1 / 25)
    assert one_cycle(0.3) == pytest.approx(1)
    assert one_cycle(1.0) == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize("rise", [0, 1])
def test_one_cycle_may_only_fall_or_only_rise(rise):
    ends = one_cycle(0, rise, 0.1, 0.01), one_cycle(1, rise, 0.1, 0.01)
    assert ends == pytest.approx((1, 0.01) if rise == 0 else (0.1, 1))
