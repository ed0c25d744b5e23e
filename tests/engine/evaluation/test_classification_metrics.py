"""Metrics agree with scikit-learn and with hand computations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from engine.evaluation.classification_metrics import (
    ConfusedPair,
    classification_metrics,
    precision_recall_curve,
    roc_curve,
)
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import wilson
from tests.engine.evaluation.random_predictions import random_predictions


def from_confusion(confusion: np.ndarray) -> Predictions:
    labels, predicted = (np.repeat(x, confusion.flat) for x in np.indices((3, 3)).reshape(2, -1))
    return Predictions(tuple("abc"), labels, np.eye(3, dtype=np.float32)[predicted])


def measure(predictions: Predictions, rule: DecisionRule = DEFAULT_RULE):
    return classification_metrics(predictions, rule)


def test_metrics_equal_scikit_learn():
    predictions = random_predictions()
    measured, predicted = measure(predictions), predictions.logits.argmax(-1)
    expected = metrics.precision_recall_fscore_support(predictions.labels, predicted)
    rows = [(row.precision, row.recall, row.f1, row.support) for row in measured.per_class]
    np.testing.assert_allclose(rows, np.transpose(expected))
    assert [row.name for row in measured.per_class] == list(predictions.classes)
    macro = metrics.f1_score(predictions.labels, predicted, average="macro")
    assert measured.macro_f1 == pytest.approx(macro)
    assert measured.accuracy == metrics.accuracy_score(predictions.labels, predicted)
    correct = int((predicted == predictions.labels).sum())
    assert measured.accuracy_interval == wilson(correct, 60)
    confusion = metrics.confusion_matrix(predictions.labels, predicted)
    np.testing.assert_array_equal(measured.confusion, confusion)
    assert measured.count == 60
    for low, high in (measured.macro_f1_interval, *(r.f1_interval for r in measured.per_class)):
        assert 0 <= low < high <= 1


def test_per_class_by_hand_with_a_class_that_never_occurs():
    rows = measure(from_confusion(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))).per_class
    found = [(row.precision, row.recall, row.f1, row.support) for row in rows]
    expected = [(3 / 5, 3 / 4, 2 / 3, 4), (4 / 5, 4 / 6, 8 / 11, 6), (0, 0, 0, 0)]
    np.testing.assert_allclose(found, expected)


def test_loss_ignores_the_temperature():
    """As in `result.json`, whatever temperature was fitted since."""
    predictions = random_predictions()
    probabilities = scipy.special.softmax(predictions.logits, -1)
    expected = metrics.log_loss(predictions.labels, probabilities)
    assert measure(predictions, DecisionRule(3.0)).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("digits", [0, 1, 6])
def test_areas_equal_scikit_learn_at_the_rules_temperature(temperature, digits):
    """With ties, a class with one image and one without."""
    predictions = random_predictions(40, 8)
    predictions = dataclasses.replace(
        predictions,
        logits=np.round(predictions.logits, digits),
        labels=np.minimum(predictions.labels, 6),
    )
    predictions.labels[predictions.labels == 5] = 4
    predictions.labels[7] = 5
    probabilities = scipy.special.softmax(predictions.logits.astype(float) / temperature, -1)
    for label, row in enumerate(measure(predictions, DecisionRule(temperature)).per_class):
        if label == 7:
            assert row.roc_area is row.average_precision is None
            continue
        is_label, column = predictions.labels == label, probabilities[:, label]
        area = metrics.roc_auc_score(is_label, column)
        average = metrics.average_precision_score(is_label, column)
        assert (row.roc_area, row.average_precision) == pytest.approx((area, average), abs=1e-12)
        curves = [
            curve(probabilities, predictions.labels, label)
            for curve in (roc_curve, precision_recall_curve)
        ]
        assert [curve.area for curve in curves] == pytest.approx([area, average])
        assert np.trapezoid(curves[0].y, curves[0].x) == pytest.approx(area)


def test_areas_of_a_class_with_no_or_all_images_are_undefined():
    labels, logits = np.zeros(4, np.int32), random_predictions(4, 2).logits
    for row in measure(Predictions(("a", "b"), labels, logits)).per_class:
        assert row.roc_area is row.average_precision is None


@pytest.mark.parametrize(
    ("classes", "expected"), [(6, ()), (7, (3,)), (10, (3,)), (11, (3, 5)), (30, (3, 5))]
)
def test_top_k_equals_scikit_learn(classes, expected):
    predictions = random_predictions(200, classes)
    top_k = measure(predictions).top_k
    assert tuple(top_k) == expected
    for k, share in top_k.items():
        assert share == metrics.top_k_accuracy_score(
            predictions.labels, predictions.logits, k=k, labels=range(classes)
        )


def test_top_k_of_equal_logits_ranks_by_class_index():
    labels = np.arange(7, dtype=np.int32)
    predictions = Predictions(tuple("abcdefg"), labels, np.zeros([7, 7], np.float32))
    assert measure(predictions).top_k == {3: 3 / 7}


def test_confused_pairs_are_the_largest_confusions():
    measured = measure(from_confusion(np.array([[9, 2, 0], [5, 9, 2], [0, 1, 9]])))
    pairs = [("b", "a", 5), ("a", "b", 2), ("b", "c", 2), ("c", "b", 1)]
    assert measured.confused_pairs == tuple(ConfusedPair(*pair) for pair in pairs)
    assert len(measure(random_predictions(500, 20, margin=0)).confused_pairs) == 10
    assert measure(random_predictions(margin=99)).confused_pairs == ()


def test_confusion_ignores_the_threshold():
    predictions = random_predictions()
    rule = DecisionRule(positive_class="class 1", threshold=0.0, abstain=1.0)
    np.testing.assert_array_equal(
        measure(predictions, rule).confusion, measure(predictions).confusion
    )


def test_metrics_of_a_single_image():
    measured = measure(random_predictions(1, margin=99))
    assert (measured.accuracy, measured.macro_f1, measured.singleton_classes) == (1, 1, 1)
    low = measured.accuracy_interval.low
    assert low == pytest.approx(0.2065, abs=1e-4)
    (own,) = [row.f1_interval for row in measured.per_class if row.support]
    assert own == pytest.approx((2 * low / (1 + low), 1))
    assert measured.macro_f1_interval.low < 0.6
    assert measured.macro_f1_interval.high == 1


@pytest.mark.parametrize(
    ("sizes", "expected"), [((1,) * 2 + (3,) * 18, 0), ((1,) * 3 + (3,) * 17, 3)]
)
def test_singleton_classes_are_counted_above_a_tenth(sizes, expected):
    labels = np.repeat(np.arange(20), sizes).astype(np.int32)
    logits = np.eye(22, dtype=np.float32)[labels]  # two classes have no image
    predictions = Predictions(tuple("abcdefghijklmnopqrstuv"), labels, logits)
    assert measure(predictions).singleton_classes == expected
