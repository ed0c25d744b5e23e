"""Measurements: rates, efficiency, and the explanation of the limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.benchmark.measurement import Rate, efficiency, explain
from engine.core.errors import UserError
from tests.engine.benchmark.benchmark_reports import STAGES, measurement


@given(st.lists(st.floats(0.001, 1e8), min_size=1, max_size=9))
def test_rate_of_samples_is_numpy_quartiles(samples):
    rate = Rate.of(samples)
    expected = np.percentile(samples, [25, 50, 75])
    np.testing.assert_allclose([rate.low, rate.median, rate.high], expected, rtol=1e-12)
    assert rate.repeats == len(samples)


def test_rate_spread_is_half_interquartile_range():
    assert Rate(100.0, 90.0, 120.0, 5).spread == pytest.approx(0.15)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf")]])
def test_rate_of_invalid_samples_is_refused(samples):
    with pytest.raises(UserError, match="allowed"):
        Rate.of(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": {}},
        {"stages": {"decode": 100.0}},
        {"batch_size": 0},
        {"image_size": (224, 0)},
        {"peak_memory": {"host": -1}},
    ],
)
def test_measurement_with_invalid_value_is_refused(change):
    with pytest.raises(UserError, match="allowed"):
        measurement(**change)


def test_efficiency_by_hand():
    """1, 0.25, 2 and 4 ms per image are 7.25 ms on shared cores, of which a GPU takes 6.25."""
    assert efficiency(measurement(whole=100.0)) == pytest.approx(100 * 7.25e-3)
    assert efficiency(measurement(whole=100.0, shares_cores=False)) == pytest.approx(100 * 6.25e-3)
    slow = {**STAGES, "input": 125.0}
    assert efficiency(measurement(100.0, slow, shares_cores=False)) == pytest.approx(100 / 125)


@pytest.mark.parametrize("shares_cores", [True, False])
@pytest.mark.parametrize(
    ("stage", "words", "advice"),
    [
        ("input", "The input", "--cache=pixels"),
        ("augment", "The augmentation", "--augment"),
        ("trunk", "The trunk", "--cache=features"),
        ("tail", "The tail", "fewer open stages"),
    ],
)
def test_explain_names_slowest_stage(stage, words, advice, shares_cores):
    stages = dict.fromkeys(STAGES, 4000.0) | {stage: 100.0}
    text = explain(measurement(1000 / 10.75, stages, shares_cores=shares_cores))
    assert text.startswith(f"{words} is the limit: ")
    assert advice in text
    assert ("a GPU" in text.split("What helps")[1]) == (shares_cores and stage != "input")
    assert "\n" not in text
    assert "lost" not in text


def test_explain_names_fraction_and_loss():
    """The tail takes 4 of 7.25 ms; 69 images/s are half of the 137.9 that these allow."""
    text = explain(measurement(whole=500 / 7.25))
    assert "it takes 55% of the time that the stages need on these cores" in text
    assert text.endswith("reaches 50% of what the stages allow; the remaining 50% is lost between "
                         "them.")  # fmt: skip


def test_explain_names_speed_of_other_device():
    """The GPU needs 6.25 ms: 160 images/s, of which the tail takes 64%; the input reaches 1,000."""
    text = explain(measurement(whole=160.0, shares_cores=False))
    assert "The tail is the limit: it takes 64% of the GPU's time" in text
    assert "the input could deliver 6.2 times as many images" in text
    text = explain(measurement(40.0, {**STAGES, "input": 40.0}, shares_cores=False))
    assert "The input is the limit: the GPU could take 4.0 times as many images" in text


def test_explain_with_one_stage():
    assert "takes 100% of" in explain(measurement(90.0, {"tail": 100.0}, shares_cores=False))
    assert "takes 100% of" in explain(measurement(90.0, {"input": 100.0}, shares_cores=False))


def test_explain_advises_precision_from_float32_only():
    assert "--precision" in explain(measurement(shares_cores=False))
    assert "--precision" not in explain(measurement(shares_cores=False, precision="mixed_bfloat16"))


def test_explain_of_prediction_advises_no_cache():
    slow = (40.0, {**STAGES, "input": 40.0})
    assert "--cache=pixels" in explain(measurement(*slow, shares_cores=False))
    assert "--cache" not in explain(measurement(*slow, shares_cores=False, phase="predict"))
