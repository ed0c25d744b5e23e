"""The tests that `test_replicas.py` runs in a process of its own, with two processors.

Devices have to be made before TensorFlow begins, so that these can't run among the others.
"""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from engine import replicas  # noqa: E402
from engine.precision import Program  # noqa: E402
from pipelines import augment  # noqa: E402
from engine.specs import parse_calls  # noqa: E402
from tests.engine import small  # noqa: E402
from tests.engine.test_steps import moved, trainer  # noqa: E402

DEVICES = [f"/cpu:{place}" for place in range(2)]
RATES = tf.constant([0.1, 0.02, 0.05])


def both():
    """The strategies to compare: one device, and two."""
    return (contextlib.nullcontext(), replicas.strategy(DEVICES, 6).scope())


def batches() -> list:
    """Of the second, one device has nothing but filling."""
    made = [small.batch(6, seed)._replace(views=tf.fill([6], seed)) for seed in range(3)]
    made[1] = made[1]._replace(weights=tf.constant([1.0, 1, 1, 0, 0, 0]))
    return made


def trained(scope, trainable="top", optimizer="sgd", one_call=True, recipe=None, **changes):
    recipe = small.recipe(label_smoothing=0.1, batch_size=6, **(recipe or {}))
    with scope:
        net = small.network(head_units=12)
        small.enliven(net.model)
        weights = (0.5, 2.0, 7.0)
        change = augment.compose(parse_calls("rotate|flip"))
        made = trainer(
            trainable, optimizer, net=net, recipe=recipe, class_weights=weights, augment=change,
            **changes,
        )  # fmt: skip
        made.before = small.values(net.model.weights)
        if one_call:
            made.steps(small.stacked(*batches()), RATES)
        else:
            for batch, rate in zip(batches(), RATES, strict=True):
                made.step(batch, rate)
        made.figures = made.totals.read()
    return made


def agree(one, other, atol=1e-5) -> None:
    for mine, others in zip(one.net.model.weights, other.net.model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), others.numpy(), atol=atol, err_msg=mine.path)


def test_there_are_two():
    with replicas.strategy(DEVICES, 6).scope():
        assert tf.distribute.get_strategy().num_replicas_in_sync == 2
        variable = keras.Variable([1.0])
    assert len(variable.value.values) == 2


@pytest.mark.parametrize("trainable", ["head", "top"])
@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [
        ("sgd", {"options": {"momentum": 0.9}}),
        ("sgd", {"clip_norm": 0.1, "weight_decay": 0.01}),
        ("adam", {}),
    ],
)
def test_two_devices_update_as_one_does_with_the_whole_batch(trainable, optimizer, changes):
    one, two = (trained(scope, trainable, optimizer, **changes) for scope in both())
    assert len(moved(one.net.model, one.before)) == {"head": 4, "top": 8}[trainable]
    agree(one, two)
    assert two.figures.loss == pytest.approx(one.figures.loss, rel=1e-6)
    assert (two.figures.accuracy, two.figures.examples) == (one.figures.accuracy, 15)
    assert float(two.optimizer.learning_rate.numpy()) == pytest.approx(0.05)


def test_both_devices_hold_the_same():
    made = trained(both()[1], "top", "adam")
    for variable in [*made.net.model.weights, *made.optimizer.variables]:
        one, other = (part.numpy() for part in variable.value.values)
        assert np.array_equal(one, other), variable.path
