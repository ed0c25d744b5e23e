"""Two models on the same images: counts by hand, the test as a sum over a binomial."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.mcnemar import ModelComparison, compare_models, mcnemar, require_same_classes


@pytest.mark.parametrize(
    ("one", "other"), [(0, 0), (0, 1), (1, 0), (3, 3), (1, 9), (9, 1), (2, 17), (40, 61)]
)
def test_mcnemar_as_a_sum_over_a_binomial(one, other):
    """Twice the tail, and no more than 1: a fair coin's distribution is symmetric."""
    count, low = one + other, min(one, other)
    tail = sum(math.comb(count, k) for k in range(low + 1)) / 2**count
    assert mcnemar(one, other) == pytest.approx(min(1, 2 * tail))


def test_mcnemar_as_published():
    """Agresti 1990, page 350: 150 against 86; R's exact2x2 gives 3.716e-05 for it."""
    assert mcnemar(86, 150) == pytest.approx(3.716e-5, rel=1e-3)


def made(predicted, names, labels=None, classes=("a", "b")) -> Predictions:
    """By letters: a model that says `predicted` of the images `names`."""
    places = [classes.index(letter) for letter in predicted]
    given = [classes.index(letter) for letter in labels or "a" * len(predicted)]
    logits = np.eye(len(classes), dtype=np.float32)[places]
    return Predictions(classes, np.array(given, np.int32), logits, list(names).__getitem__)


def test_counts_on_common_images_whatever_their_order():
    """v: right, wrong; w: right, wrong; x: wrong, right; y: wrong, wrong; z and u stand alone."""
    first, second = made("aabba", "vwxyz"), made("babba", "yxwvu")
    assert compare_models(first, second) == ModelComparison(4, 2, 1, 2, 1, 1.0)


def test_other_classes_are_one_line():
    message = "the models know other classes: a, b and a, b, u; compare runs of the same classes"
    with pytest.raises(UserError, match=message):
        compare_models(made("ab", "uv"), made("ab", "uv", classes=("a", "b", "u")))
    many = [f"class {n:03}" for n in range(500)]
    with pytest.raises(UserError, match=r"class 009 … and a, b;"):
        require_same_classes([many, ["b", "a"]])


def test_classes_may_come_in_another_order():
    first, second = made("ab", "uv", "ab"), made("ab", "uv", "ab", classes=("b", "a"))
    assert compare_models(first, second) == ModelComparison(2, 2, 2, 0, 0, 1.0)


def test_a_image_that_stands_twice_counts_once():
    first, second = made("aab", "uuv"), made("aa", "uv")
    assert compare_models(first, second) == ModelComparison(2, 1, 2, 0, 1, 1.0)


def test_nothing_in_common_and_other_labels_are_one_line():
    message = r"runs/a and runs/c have no image in common \(of 2 and 1\); name the same"
    with pytest.raises(UserError, match=message):
        compare_models(made("aa", "uv"), made("a", "w"), called=("runs/a", "runs/c"))
    with pytest.raises(UserError, match="v is labelled 'a' for one model and 'b' for the other"):
        compare_models(made("aa", "uv"), made("aa", "uv", "ab"))


def test_by_rules_uncertain_is_not_right():
    """Every answer here has a probability of e / (e + 1), 0.731."""
    first = made("ba", "uv", "ba")
    strict = DecisionRule(positive_class="b", threshold=0.74)
    assert compare_models(first, first, rule_b=strict) == ModelComparison(2, 2, 1, 1, 0, 1.0)
    unsure = DecisionRule(abstain=0.8)
    assert compare_models(first, first, unsure) == ModelComparison(2, 0, 2, 0, 2, 0.5)
