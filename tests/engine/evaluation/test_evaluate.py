"""Evaluation: exact counts, and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.dataset import Batch
from engine.evaluation.evaluate import Evaluation, evaluate

CONFUSION = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])


def test_figures_of_each_class_by_hand():
    """The third class has no example and is never predicted."""
    rows = Evaluation(0.5, CONFUSION).per_class()
    assert rows[0] == pytest.approx(
        {"precision": 3 / 5, "recall": 3 / 4, "f1": 2 / 3, "support": 4}
    )
    assert rows[1] == pytest.approx(
        {"precision": 4 / 5, "recall": 4 / 6, "f1": 8 / 11, "support": 6}
    )
    assert rows[2] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_accuracy_and_count():
    evaluation = Evaluation(0.5, CONFUSION)
    assert evaluation.count == 10
    assert evaluation.accuracy == 0.7


def batches():
    """Five examples of three classes in two batches, the second filled up with one at weight 0."""
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    labels = np.array([[0, 2, 1], [2, 2, 0]])
    weights = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    for place in range(2):
        yield Batch(images[place], labels[place], weights[place], None, None, None)


PROBABILITIES = np.array(
    [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1],
     [0.0, 0.9, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]]
)  # fmt: skip


def step(images, labels):
    found = PROBABILITIES[images]
    with np.errstate(divide="ignore"):  # the filling's loss is infinite, and must not count
        return -np.log(found[np.arange(3), labels]), found


def test_every_example_once_and_the_filling_never():
    evaluation = evaluate(step, batches(), 3)
    np.testing.assert_array_equal(evaluation.confusion, [[1, 0, 0], [1, 0, 0], [0, 1, 2]])
    assert evaluation.loss == pytest.approx(-np.mean(np.log([0.5, 0.7, 0.3, 0.1, 0.4])))
    assert evaluation.count == 5
    assert evaluation.accuracy == 0.6
