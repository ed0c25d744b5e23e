"""Thresholds by trying all of them; what they cost by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.intervals import wilson
from engine.evaluation.operating_point import ROUNDING, abstain, fit_threshold, operate


def two(chances) -> np.ndarray:
    """Of two classes, by the probability of the second."""
    column = np.asarray(chances, float)
    return np.stack([1 - column, column], -1)


def recall(column, labels, threshold) -> float:
    own = [c for c, label in zip(column, labels, strict=True) if label == 1]
    return sum(c >= threshold for c in own) / len(own)


shares = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
columns = st.lists(st.tuples(shares, st.integers(0, 1)), min_size=1, max_size=30).filter(
    lambda rows: any(label for _, label in rows)
)
least = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.07, 0.1, 0.9, 0.95, 1.0])


@settings(max_examples=300, deadline=None)
@given(rows=columns, min_recall=least)
def test_no_other_threshold_finds_as_much_with_fewer_false_alarms(rows, min_recall):
    column, labels = map(np.array, zip(*rows, strict=True))
    chances = np.stack([np.zeros(len(column)), column], -1)
    threshold = fit_threshold(chances, labels, 1, min_recall)
    assert 0 <= threshold <= 1
    good = [t for t in column if recall(column, labels, t) >= min_recall]
    largest = max(good)
    assert largest - ROUNDING <= threshold <= largest
    assert recall(column, labels, threshold) >= min_recall
    np.testing.assert_array_equal(column >= threshold, column >= largest)
    fewest = min(sum(column[labels == 0] >= t) for t in good)
    assert operate(chances, labels, 1, threshold).false_alarms == fewest


def test_rounding_does_not_lose_the_last_image():
    column, labels = np.array([0.9, 0.8, 0.3]), np.array([1, 1, 0])
    threshold = fit_threshold(two(column), labels, 1, 1.0)
    again = two(column - 1e-6).astype(np.float32)
    assert operate(again, labels, 1, threshold).found == 2


@pytest.mark.parametrize("low", [0.25, np.nextafter(0.25, 1)])
def test_between_neighbours_in_floating_point_there_is_no_room(low):
    """Half way between rounds to the even one, be it the image's that is not to be taken."""
    column, labels = np.array([np.nextafter(low, 1), low]), np.array([1, 0])
    threshold = fit_threshold(two(column), labels, 1, 1.0)
    assert (column >= threshold).tolist() == [True, False]


def test_a_share_that_is_met_exactly_takes_no_image_more():
    """0.07 × 100 is more than 7 in floating point."""
    chances, labels = two(np.linspace(0.01, 1, 100)), np.ones(100, int)
    assert operate(chances, labels, 1, fit_threshold(chances, labels, 1, 0.07)).found == 7


def test_none_of_the_class_is_one_line():
    with pytest.raises(UserError, match=r"none of the 3 images .* name another class") as raised:
        fit_threshold(two([0.1, 0.2, 0.3]), np.zeros(3, int), 1, 0.9)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_can_not_be(share):
    with pytest.raises(UserError, match=f"min_recall={share}; allowed: above 0, up to 1"):
        fit_threshold(two([0.1, 0.2]), np.array([0, 1]), 1, share)


def test_what_a_threshold_costs_by_hand():
    chances = np.array(
        [[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.5, 0.3, 0.2], [0.1, 0.4, 0.5], [0.9, 0.0, 0.1]]
    )
    found = operate(chances, np.array([1, 1, 1, 2, 0]), 1, 0.4)
    assert (found.found, found.missed, found.false_alarms, found.negatives) == (2, 1, 1, 2)
    assert (found.recall, found.precision, found.false_alarm_rate) == (2 / 3, 2 / 3, 1 / 2)
    assert found.recall_interval == wilson(2, 3)
    assert found.threshold == 0.4


def test_where_there_is_nothing_to_count():
    none = operate(two([0.1, 0.9]), np.zeros(2, int), 1, 0.95)
    assert (none.recall, none.recall_interval, none.precision) == (0, (0, 1), 0)
    every = operate(two([0.1, 0.9]), np.ones(2, int), 1, 0.5)
    assert (every.false_alarm_rate, every.negatives, every.precision) == (0, 0, 1)


CHANCES = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]])


def test_abstaining_by_hand():
    """The second is uncertain, the third wrong."""
    found = abstain(CHANCES, np.array([0, 0, 2, 2]), 0.6)
    assert (found.level, found.uncertain, found.sure, found.share_uncertain) == (0.6, 1, 3, 0.25)
    assert (found.accuracy, found.accuracy_interval) == (2 / 3, wilson(2, 3))


def test_abstaining_from_all_and_from_none():
    labels = np.array([0, 0, 1, 2])
    every, none = abstain(CHANCES, labels, 1.0), abstain(CHANCES, labels, 0.0)
    assert (every.sure, every.accuracy, every.accuracy_interval) == (0, 0, (0, 1))
    assert (none.uncertain, none.accuracy) == (0, 1)


def test_the_rest_is_answered_by_the_rule():
    """By a threshold of 0.2 the first is of the second class."""
    rule = DecisionRule(positive_class="b", threshold=0.2, abstain=0.5)
    decisions = decision_rule.decide(rule, "abc", CHANCES)
    found = abstain(CHANCES, np.array([1, 0, 1, 2]), 0.5, decisions)
    assert (found.sure, found.accuracy) == (3, 1)
    assert (decisions == decision_rule.UNCERTAIN).sum() == found.uncertain == 1
