"""Two models on the same images: counts by hand, p-values as published."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.mcnemar import ModelComparison, compare_models, mcnemar, require_same_classes


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [  # Agresti 1990, page 350, by R's exact2x2; two tails of a binomial
        (86, 150, pytest.approx(3.716e-5, rel=1e-3)),
        (9, 1, pytest.approx(2 * 11 / 2**10)),
        (3, 3, 1),
        (0, 0, 1),
    ],
)
def test_p_value_of_the_exact_test(only_a, only_b, expected):
    assert mcnemar(only_a, only_b) == expected


def predictions(predicted, names, labels=None, classes=("a", "b")) -> Predictions:
    """A model that predicts these letters for the images `names`."""
    logits = np.eye(len(classes), dtype=np.float32)[[classes.index(x) for x in predicted]]
    numbers = [classes.index(letter) for letter in labels or "a" * len(predicted)]
    return Predictions(classes, np.array(numbers, np.int32), logits, list(names).__getitem__)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # v: right, wrong; w: right, wrong; x: wrong, right; y: wrong, wrong; z and u stand alone
        (("aabba", "vwxyz"), ("babba", "yxwvu"), (4, 2, 1, 2, 1, 1.0)),
        (("ab", "uv", "ab"), ("ab", "uv", "ab", ("b", "a")), (2, 2, 2, 0, 0, 1.0)),
        (("aab", "uuv"), ("aa", "uv"), (2, 1, 2, 0, 1, 1.0)),
    ],
    ids=["order of images", "order of classes", "duplicate image"],
)
def test_comparison_counts_common_images_once(first, second, expected):
    found = compare_models(predictions(*first), predictions(*second))
    assert found == ModelComparison(*expected)


def test_comparison_by_rules_counts_uncertain_as_wrong():
    """Every decision here has a probability of e / (e + 1), 0.731."""
    first = predictions("ba", "uv", "ba")
    strict = DecisionRule(positive_class="b", threshold=0.74)
    assert compare_models(first, first, rule_b=strict) == ModelComparison(2, 2, 1, 1, 0, 1.0)
    unsure = DecisionRule(abstain=0.8)
    assert compare_models(first, first, unsure) == ModelComparison(2, 0, 2, 0, 2, 0.5)


def test_different_classes_are_refused():
    message = "the models have different classes: a, b and a, b, u; compare runs with the same"
    with pytest.raises(UserError, match=message):
        compare_models(predictions("ab", "uv"), predictions("ab", "uv", classes=("a", "b", "u")))
    many = [f"class {n:03}" for n in range(500)]
    with pytest.raises(UserError, match=r"class 009 … and a, b;"):
        require_same_classes([many, ["b", "a"]])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("a", "w"), r"runs/a and runs/c have no image in common \(of 2 and 1\); name the same"),
        (("aa", "uv", "ab"), "v is labelled 'a' for runs/a and 'b' for runs/c; name the same"),
    ],
)
def test_no_common_image_and_other_labels_are_refused(second, message):
    with pytest.raises(UserError, match=message):
        compare_models(predictions("aa", "uv"), predictions(*second), names=("runs/a", "runs/c"))
