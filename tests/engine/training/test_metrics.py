"""Accumulated metrics against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from engine.training.metrics import MetricAccumulator


@tf.function
def add(accumulator: MetricAccumulator, *columns) -> None:
    accumulator.add(*(tf.constant(column, tf.float32) for column in columns))


def test_metrics_are_means_over_batches():
    """Loss is a weighted mean; accuracy and count ignore padding."""
    accumulator = MetricAccumulator()
    add(accumulator, [1.0, 4.0], [2.0, 1.0], [1.0, 0.0], [1.0, 1.0])
    add(accumulator, [2.0, 9.0], [2.0, 0.0], [1.0, 1.0], [1.0, 0.0])
    metrics = accumulator.read()
    assert metrics.loss == pytest.approx((1 * 2 + 4 * 1 + 2 * 2) / 5)
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.examples == 3
    accumulator.reset()
    metrics = accumulator.read()
    assert math.isnan(metrics.loss)
    assert math.isnan(metrics.accuracy)
    assert metrics.examples == 0


def test_nan_loss_leaves_accuracy():
    accumulator = MetricAccumulator()
    add(accumulator, [math.nan, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0])
    assert math.isnan(accumulator.read().loss)
    assert accumulator.read().accuracy == 0.5


def test_first_non_finite_step_survives_restore():
    accumulator = MetricAccumulator()

    @tf.function
    def step(loss):
        accumulator.add(tf.stack([loss, 1.0]), tf.ones([2]), tf.ones([2]), tf.ones([2]))
        accumulator.end_step()

    for loss in (1.0, 2.0):
        step(tf.constant(loss))
    assert accumulator.read().bad_step is None
    for loss in (np.inf, 1.0, np.nan):
        step(tf.constant(loss, tf.float32))
    assert accumulator.read().bad_step == 2
    state = [np.asarray(part) for part in accumulator.state]
    accumulator.reset()
    step(tf.constant(1.0))
    assert accumulator.read().bad_step is None
    for variable, value in zip(accumulator.variables, state, strict=True):
        variable.assign(value)
    assert accumulator.read().bad_step == 2
