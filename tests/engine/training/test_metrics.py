"""Running totals against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from engine.training.metrics import MetricAccumulator


def add(totals: MetricAccumulator, *columns) -> None:
    totals.add(*(tf.constant(column, tf.float32) for column in columns))


def test_metrics_are_means_over_batches():
    """Loss is a mean by weight; accuracy and count leave out what only fills up."""
    totals = MetricAccumulator()
    add(totals, [1.0, 4.0], [2.0, 1.0], [1.0, 0.0], [1.0, 1.0])
    add(totals, [2.0, 9.0], [2.0, 0.0], [1.0, 1.0], [1.0, 0.0])
    figures = totals.read()
    assert figures.loss == pytest.approx((1 * 2 + 4 * 1 + 2 * 2) / 5)
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.examples == 3


def test_reset_metrics_are_nan():
    totals = MetricAccumulator()
    add(totals, [1.0], [1.0], [1.0], [1.0])
    totals.reset()
    figures = totals.read()
    assert math.isnan(figures.loss)
    assert math.isnan(figures.accuracy)
    assert figures.examples == 0


def test_nan_loss_leaves_accuracy():
    totals = MetricAccumulator()
    add(totals, [np.nan, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0])
    assert math.isnan(totals.read().loss)
    assert totals.read().accuracy == 0.5


def test_metrics_accumulate_in_compiled_function():
    totals = MetricAccumulator()
    step = tf.function(lambda: add(totals, [1.0, 3.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]))
    step()
    step()
    assert (totals.read().loss, totals.read().examples) == (2.0, 4)


def test_first_non_finite_step_survives_restore():
    totals = MetricAccumulator()

    @tf.function
    def step(loss):
        totals.add(tf.stack([loss, 1.0]), tf.ones([2]), tf.ones([2]), tf.ones([2]))
        totals.end_step()

    for loss in (1.0, 2.0):
        step(tf.constant(loss))
    assert totals.read().bad_step is None
    for loss in (np.inf, 1.0, np.nan):
        step(tf.constant(loss, tf.float32))
    assert totals.read().bad_step == 2
    state = [np.asarray(part) for part in totals.state]
    totals.reset()
    step(tf.constant(1.0))
    assert totals.read().bad_step is None
    for variable, value in zip(totals.variables, state, strict=True):
        variable.assign(value)
    assert totals.read().bad_step == 2
