"""Thresholds against an exhaustive search; their costs by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import wilson
from engine.evaluation.operating_point import (
    ROUNDING,
    decisions_of_rule,
    fit_threshold,
    operating_point_of_rule,
)


def binary(positive) -> np.ndarray:
    """Probabilities of two classes, from those of the second."""
    column = np.asarray(positive, float)
    return np.stack([1 - column, column], -1)


def recall(column, labels, threshold) -> float:
    return float((column[labels == 1] >= threshold).mean())


shares = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
columns = st.lists(st.tuples(shares, st.integers(0, 1)), min_size=1, max_size=30).filter(
    lambda rows: any(label for _, label in rows)
)
recalls = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.07, 0.1, 0.9, 0.95, 1.0])


@settings(max_examples=150, deadline=None)
@given(rows=columns, min_recall=recalls)
def test_threshold_has_the_fewest_false_alarms_of_all(rows, min_recall):
    column, labels = map(np.array, zip(*rows, strict=True))
    probabilities = np.stack([np.zeros(len(column)), column], -1)
    threshold = fit_threshold(probabilities, labels, 1, min_recall)
    assert 0 <= threshold <= 1
    candidates = [t for t in column if recall(column, labels, t) >= min_recall]
    largest = max(candidates)
    assert largest - ROUNDING <= threshold <= largest
    assert recall(column, labels, threshold) >= min_recall
    np.testing.assert_array_equal(column >= threshold, column >= largest)
    fewest = min(sum(column[labels == 0] >= t) for t in candidates)
    assert sum(column[labels == 0] >= threshold) == fewest


def test_threshold_allows_for_rounding():
    column, labels = np.array([0.9, 0.8, 0.3]), np.array([1, 1, 0])
    threshold = fit_threshold(binary(column), labels, 1, 1.0)
    assert recall(np.float32(column - 1e-6), labels, threshold) == 1


@pytest.mark.parametrize("low", [0.25, np.nextafter(0.25, 1)])
def test_threshold_separates_neighbouring_floats(low):
    """Half way between rounds to the even one, which may be the image to exclude."""
    column, labels = np.array([np.nextafter(low, 1), low]), np.array([1, 0])
    threshold = fit_threshold(binary(column), labels, 1, 1.0)
    assert (column >= threshold).tolist() == [True, False]


def test_threshold_with_an_exact_recall_includes_no_further_image():
    """0.07 × 100 is more than 7 in floating point."""
    column, labels = np.linspace(0.01, 1, 100), np.ones(100, int)
    assert recall(column, labels, fit_threshold(binary(column), labels, 1, 0.07)) == 0.07


def test_threshold_without_images_of_the_class_is_refused():
    with pytest.raises(UserError, match=r"none of the 2 images .* name another class"):
        fit_threshold(binary([0.1, 0.2]), np.array([0, 0]), 1, 0.9)


def predictions(probabilities, labels) -> Predictions:
    """Of classes a, b and c."""
    with np.errstate(divide="ignore"):
        return Predictions(("a", "b", "c"), np.array(labels), np.log(probabilities))


def test_operating_point_by_hand():
    probabilities = np.array(
        [[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.9, 0.0, 0.1]]
    )
    rule = DecisionRule(positive_class="b", threshold=0.39)
    point = operating_point_of_rule(predictions(probabilities, [1, 1, 1, 2, 0]), rule)
    assert (point.hits, point.misses, point.false_alarms, point.negatives) == (2, 1, 1, 2)
    assert (point.recall, point.precision, point.false_alarm_rate) == (2 / 3, 2 / 3, 1 / 2)
    assert (point.recall_interval, point.threshold) == (wilson(2, 3), 0.39)


@pytest.mark.parametrize(
    ("label", "threshold", "expected"),
    [(0, 0.95, (0, (0, 1), 0, 0)), (1, 0.5, (1, wilson(2, 2), 1, 0))],
    ids=["no positive image", "no negative image"],
)
def test_operating_point_with_empty_denominators(label, threshold, expected):
    results = predictions([[0.1, 0.9, 0.0], [0.4, 0.6, 0.0]], [label] * 2)
    point = operating_point_of_rule(results, DecisionRule(positive_class="b", threshold=threshold))
    shares = (point.recall, point.recall_interval, point.precision, point.false_alarm_rate)
    assert shares == expected


PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]])


@pytest.mark.parametrize(
    ("labels", "rule", "expected"),
    [
        ([0, 0, 2, 2], {"abstain": 0.59}, (1, 3, 2 / 3, wilson(2, 3))),
        ([0, 0, 1, 2], {"abstain": 1.0}, (4, 0, 0, (0, 1))),
        ([0, 0, 1, 2], {"abstain": 0.0}, (0, 4, 1, wilson(4, 4))),
        (  # the first is then of the second class
            [1, 0, 1, 2],
            {"abstain": 0.5, "positive_class": "b", "threshold": 0.19},
            (1, 3, 1, wilson(3, 3)),
        ),
        ([1, 1, 1, 0], {"positive_class": "b", "threshold": 0.19}, (0, 4, 3 / 4, wilson(3, 4))),
    ],
)
def test_decisions_of_a_rule_by_hand(labels, rule, expected):
    measured = decisions_of_rule(predictions(PROBABILITIES, labels), DecisionRule(**rule))
    assert (measured.uncertain, measured.sure) == expected[:2]
    assert (measured.accuracy, measured.accuracy_interval) == expected[2:]
    assert (measured.level, measured.share_uncertain) == (rule.get("abstain", 0), expected[0] / 4)


def test_default_rule_has_nothing_to_measure():
    results = predictions(PROBABILITIES, [0, 0, 1, 2])
    assert operating_point_of_rule(results, DecisionRule(2.0)) is None
    assert decisions_of_rule(results, DecisionRule(2.0)) is None
