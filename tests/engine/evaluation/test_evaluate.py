"""Evaluation counts every example exactly once."""

from __future__ import annotations

import numpy as np
import pytest

from engine.core.dataset import Batch
from engine.evaluation.evaluate import collect_predictions, evaluate

PROBABILITIES = np.array(
    [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1],
     [0.0, 0.9, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]]
)  # fmt: skip


def batches():
    """Five examples of three classes in two batches, the second padded with one at weight 0."""
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)
    labels = np.array([[0, 2, 1], [2, 2, 0]])
    weights = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    for row in zip(images, labels, weights, strict=True):
        yield Batch(*row, None, None, None)


def step(images, labels):
    probabilities = PROBABILITIES[images]
    with np.errstate(divide="ignore"):  # the padding's loss is infinite and must not count
        return -np.log(probabilities[np.arange(3), labels]), probabilities


def test_evaluate_counts_each_example_once_and_no_padding():
    evaluation = evaluate(step, batches(), 3)
    np.testing.assert_array_equal(evaluation.confusion, [[1, 0, 0], [1, 0, 0], [0, 1, 2]])
    assert evaluation.loss == pytest.approx(-np.mean(np.log([0.5, 0.7, 0.3, 0.1, 0.4])))
    assert (evaluation.count, evaluation.accuracy) == (5, 0.6)
    predictions = collect_predictions(step, batches(), "abc")
    np.testing.assert_array_equal(predictions.logits, PROBABILITIES[:5])
    np.testing.assert_array_equal(predictions.evaluation().confusion, evaluation.confusion)
