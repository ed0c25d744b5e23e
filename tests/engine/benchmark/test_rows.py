"""One measurement: its rates, what its stages allow, and what it says of the limit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.benchmark.report import Rate, efficiency, explain
from engine.core.errors import UserError
from tests.engine.benchmark.made import STAGES, row

speeds = st.floats(0.001, 1e8)


@given(st.lists(speeds, min_size=1, max_size=9))
def test_a_rate_is_the_quartiles_that_numpy_finds(samples):
    found = Rate.of(samples)
    expected = np.percentile(samples, [25, 50, 75])
    np.testing.assert_allclose([found.low, found.median, found.high], expected, rtol=1e-12)
    assert found.repeats == len(samples)


def test_the_spread_is_half_the_distance_of_the_quartiles():
    assert Rate(100.0, 90.0, 120.0, 5).spread == pytest.approx(0.15)


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf")]])
def test_what_is_no_rate(samples):
    with pytest.raises(UserError, match="allowed"):
        Rate.of(samples)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": {}},
        {"stages": {"decode": 100.0}},
        {"batch_size": 0},
        {"image_size": (224, 0)},
        {"backbone": ""},
        {"phase": "two\nlines"},
        {"precision": "\x1b[31m"},
        {"backbone": "x" * 201},
        {"peak_memory": {"host": -1}},
    ],
)
def test_what_is_no_row(change):
    with pytest.raises(UserError, match="allowed"):
        row(**change)


def passed(stages: dict[str, float], shares_cores: bool, images: int = 1000) -> float:
    """Images/s of a simulation: each device takes its stages' time, the devices side by side."""
    clocks = {"cores": 0.0, "gpu": 0.0}
    for _ in range(images):
        for name, speed in stages.items():
            clocks["cores" if shares_cores or name == "input" else "gpu"] += 1 / speed
    return images / max(clocks.values())


@pytest.mark.parametrize("shares_cores", [True, False])
@given(stages=st.dictionaries(st.sampled_from(sorted(STAGES)), st.floats(1, 1e5), min_size=1))
@settings(max_examples=20)
def test_the_stages_allow_what_a_simulation_reaches(shares_cores, stages):
    measured = row(whole=10.0, stages=stages, shares_cores=shares_cores)
    assert efficiency(measured) == pytest.approx(10.0 / passed(stages, shares_cores))


def test_efficiency_by_hand():
    """1, 0.25, 2 and 4 ms an image are 7.25 ms on shared cores; a GPU has 6.25 of them."""
    assert efficiency(row(whole=100.0)) == pytest.approx(100 * 7.25e-3)
    assert efficiency(row(whole=100.0, shares_cores=False)) == pytest.approx(100 * 6.25e-3)
    slow = {**STAGES, "input": 125.0}
    assert efficiency(row(100.0, slow, shares_cores=False)) == pytest.approx(100 / 125)


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
def test_the_slowest_stage_is_the_limit(stage, words, advice, shares_cores):
    stages = dict.fromkeys(STAGES, 4000.0) | {stage: 100.0}
    text = explain(row(1000 / 10.75, stages, shares_cores=shares_cores))
    assert text.startswith(f"{words} is the limit: ")
    assert advice in text
    assert ("a GPU" in text.split("What helps")[1]) == (shares_cores and stage != "input")
    assert "\n" not in text
    assert "lost" not in text


def test_the_share_of_the_limit_and_what_is_lost():
    """The tail takes 4 of 7.25 ms; 69 images/s are half of the 137.9 that these allow."""
    text = explain(row(whole=500 / 7.25))
    assert "it takes 55% of the time that the stages need on these cores" in text
    assert text.endswith("reaches 50% of what the stages allow; the remaining 50% is lost between "
                         "them.")  # fmt: skip


def test_by_how_much_the_other_device_is_faster():
    """The GPU needs 6.25 ms: 160 images/s, of which the tail takes 64%; the input gives 1,000."""
    text = explain(row(whole=160.0, shares_cores=False))
    assert "The tail is the limit: it takes 64% of the GPU's time" in text
    assert "the input could give 6.2 times as many images" in text
    text = explain(row(40.0, {**STAGES, "input": 40.0}, shares_cores=False))
    assert "The input is the limit: the GPU could take 4.0 times as many images" in text


def test_one_stage_alone_is_the_limit():
    assert "takes 100% of" in explain(row(90.0, {"tail": 100.0}, shares_cores=False))
    assert "takes 100% of" in explain(row(90.0, {"input": 100.0}, shares_cores=False))


def test_a_precision_helps_where_the_slowest_is_in_use():
    assert "--precision" in explain(row(shares_cores=False))
    assert "--precision" not in explain(row(shares_cores=False, precision="mixed_bfloat16"))


def test_no_cache_helps_where_each_image_is_seen_once():
    slow = (40.0, {**STAGES, "input": 40.0})
    assert "--cache=pixels" in explain(row(*slow, shares_cores=False))
    assert "--cache" not in explain(row(*slow, shares_cores=False, phase="predict"))
