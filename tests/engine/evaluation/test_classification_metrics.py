"""Figures against scikit-learn and by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from engine.evaluation import decision_rule
from engine.evaluation.classification_metrics import ConfusedPair, precision_recall, roc
from engine.evaluation.classification_metrics import classification_metrics as figures
from engine.evaluation.decision_rule import PLAIN, DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import wilson
from tests.engine.report.made import answers


def test_each_class_as_scikit_learn_has_it():
    made = answers()
    found = figures(made, PLAIN)
    predicted = made.logits.argmax(-1)
    expected = metrics.precision_recall_fscore_support(made.labels, predicted)
    rows = [(row.precision, row.recall, row.f1, row.support) for row in found.per_class]
    np.testing.assert_allclose(rows, np.transpose(expected))
    assert [row.name for row in found.per_class] == list(made.classes)
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(made.labels, predicted, average="macro")
    )
    assert found.accuracy == metrics.accuracy_score(made.labels, predicted)
    assert found.accuracy_interval == wilson(int((predicted == made.labels).sum()), 60)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(made.labels, predicted))
    assert found.count == 60
    for low, high in (found.macro_f1_interval, *(row.f1_interval for row in found.per_class)):
        assert 0 <= low < high <= 1


def test_the_loss_is_that_of_the_logits_as_they_are():
    """As `result.json` has it, whatever temperature was fitted since."""
    made = answers()
    expected = metrics.log_loss(made.labels, scipy.special.softmax(made.logits, -1))
    assert figures(made, DecisionRule(3.0)).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_areas_as_scikit_learn_has_them_by_the_rules_probabilities(temperature):
    made = answers()
    chances = scipy.special.softmax(made.logits.astype(float) / temperature, -1)
    for label, row in enumerate(figures(made, DecisionRule(temperature)).per_class):
        given = made.labels == label
        assert row.roc_area == pytest.approx(metrics.roc_auc_score(given, chances[:, label]))
        average = metrics.average_precision_score(given, chances[:, label])
        assert row.average_precision == pytest.approx(average)


def test_temperature_matters_to_the_order_where_there_are_three_classes():
    """Else the test above could not tell whether it is used."""
    made = answers(300)
    one, other = (figures(made, rule).per_class[0].roc_area for rule in (PLAIN, DecisionRule(4.0)))
    assert one != other


def test_roc_area_is_how_often_a_image_of_the_class_stands_before_another():
    """Mann and Whitney's U, counted pair by pair; a tie counts half."""
    logits = np.array([[2, 0], [1, 0], [1, 0], [0, 0], [-1, 0], [3, 0]], np.float32)
    labels = np.array([0, 0, 1, 0, 1, 1], np.int32)
    made = Predictions(("a", "b"), labels, logits)
    pairs = itertools.product(logits[labels == 0, 0], logits[labels == 1, 0])
    expected = np.mean([(own > other) + (own == other) / 2 for own, other in pairs])
    assert expected == (2 + 1.5 + 1) / 9
    curve = roc(decision_rule.probabilities(PLAIN, logits), labels, 0)
    assert curve.area == pytest.approx(expected)
    assert figures(made, PLAIN).per_class[0].roc_area == pytest.approx(expected)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(expected)


def test_average_precision_by_hand():
    """Ranked: right, wrong, right, wrong: precision at each right one, 1 and 2/3."""
    logits = np.array([[4, 0], [3, 0], [2, 0], [1, 0]], np.float32)
    made = Predictions(("a", "b"), np.array([0, 1, 0, 1], np.int32), logits)
    curve = precision_recall(decision_rule.probabilities(PLAIN, logits), made.labels, 0)
    assert curve.area == pytest.approx((1 + 2 / 3) / 2)
    points = set(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    assert {(0.5, 1.0), (0.5, 0.5), (1.0, 2 / 3), (1.0, 0.5)} <= points


@pytest.mark.parametrize("curve", [roc, precision_recall])
@pytest.mark.parametrize("label", [0, 1])
def test_a_class_that_no_image_or_every_image_is_of_has_no_curve(curve, label):
    made = Predictions(("a", "b"), np.zeros(4, np.int32), answers(4, 2).logits)
    with pytest.raises(ValueError, match=f"{4 - 4 * label} of 4 images are of class {label}"):
        curve(decision_rule.probabilities(PLAIN, made.logits), made.labels, label)
    for row in figures(made, PLAIN).per_class:
        assert row.roc_area is row.average_precision is None


@pytest.mark.parametrize(
    ("classes", "expected"), [(6, ()), (7, (3,)), (10, (3,)), (11, (3, 5)), (30, (3, 5))]
)
def test_top_k_as_scikit_learn_has_it_where_there_are_classes_enough(classes, expected):
    made = answers(200, classes)
    found = figures(made, PLAIN).top_k
    assert tuple(found) == expected
    for k, share in found.items():
        assert share == metrics.top_k_accuracy_score(
            made.labels, made.logits, k=k, labels=range(classes)
        )


def test_of_equal_logits_the_first_classes_are_the_likelier():
    """All labels but the last of the first three are among three equal ones, as predict ranks."""
    made = Predictions(tuple("abcdefg"), np.arange(7, dtype=np.int32), np.zeros([7, 7], np.float32))
    assert figures(made, PLAIN).top_k == {3: 3 / 7}


def test_pairs_are_the_largest_confusions():
    confusion = np.array([[9, 2, 0], [5, 9, 2], [0, 1, 9]])
    given, predicted = (
        np.repeat(part, confusion.flat) for part in np.indices([3, 3]).reshape(2, -1)
    )
    logits = np.eye(3, dtype=np.float32)[predicted]
    found = figures(Predictions(("a", "b", "c"), given.astype(np.int32), logits), PLAIN)
    expected = (
        ConfusedPair("b", "a", 5),
        ConfusedPair("a", "b", 2),
        ConfusedPair("b", "c", 2),
        ConfusedPair("c", "b", 1),
    )
    assert found.pairs == expected


def test_no_more_than_ten_pairs_and_none_where_all_is_right():
    assert len(figures(answers(500, 20, better=0), PLAIN).pairs) == 10
    assert figures(answers(better=99), PLAIN).pairs == ()


def test_the_likeliest_class_counts_whatever_threshold_there_is():
    made = answers()
    rule = DecisionRule(positive_class="class 1", threshold=0.0, abstain=1.0)
    np.testing.assert_array_equal(figures(made, rule).confusion, figures(made, PLAIN).confusion)


def test_a_single_image():
    found = figures(answers(1, better=99), PLAIN)
    assert (found.accuracy, found.macro_f1, found.lone) == (1, 1, 1)
    low = found.accuracy_interval.low
    assert low == pytest.approx(0.2065, abs=1e-4)
    (own,) = [row.f1_interval for row in found.per_class if row.support]
    assert own == pytest.approx((2 * low / (1 + low), 1))
    assert found.macro_f1_interval.low < 0.6
    assert found.macro_f1_interval.high == 1


@pytest.mark.parametrize(("sizes", "lone"), [((1,) * 2 + (3,) * 18, 0), ((1,) * 3 + (3,) * 17, 3)])
def test_single_images_are_told_of_where_a_tenth_of_the_classes_have_no_more(sizes, lone):
    labels = np.repeat(np.arange(20), sizes).astype(np.int32)
    logits = np.eye(22, dtype=np.float32)[labels]  # two classes that no image is of
    assert figures(Predictions(tuple("abcdefghijklmnopqrstuv"), labels, logits), PLAIN).lone == lone


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_areas_with_ties_as_scikit_learn_has_them(digits, monkeypatch):
    """Some classes at a time, some of them with a single image or none."""
    monkeypatch.setattr("engine.evaluation.classification_metrics._AT_ONCE", 3)
    made = answers(40, 8)
    made = dataclasses.replace(
        made, logits=np.round(made.logits, digits), labels=np.minimum(made.labels, 6)
    )
    made.labels[made.labels == 5] = 4
    made.labels[7] = 5
    chances = decision_rule.probabilities(PLAIN, made.logits)
    for label, row in enumerate(figures(made, PLAIN).per_class):
        given = made.labels == label
        if label == 7:
            assert row.roc_area is row.average_precision is None
            continue
        area = metrics.roc_auc_score(given, chances[:, label])
        average = metrics.average_precision_score(given, chances[:, label])
        assert (row.roc_area, row.average_precision) == pytest.approx((area, average), abs=1e-12)
