"""The tests that `test_two_devices.py` runs in a process of its own, with two processors.

Devices are configured before TensorFlow starts, so these tests can't run among the others.
"""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from engine.core.call_syntax import parse_calls  # noqa: E402
from engine.frozen.array_store import CacheBudget  # noqa: E402
from engine.frozen.precision import ComputeMode  # noqa: E402
from engine.runs import checkpoints  # noqa: E402
from engine.runs.directory import RunDirectory  # noqa: E402
from engine.runtime import distribution  # noqa: E402
from engine.training import batchnorm_check, loop  # noqa: E402
from pipelines.augment import augmentations  # noqa: E402
from tests.engine import small  # noqa: E402
from tests.engine.small_runs import Watcher, make_job, same_end, small_recipe  # noqa: E402
from tests.engine.trainers import moved, trainer  # noqa: E402

ONE = tf.distribute.get_strategy()
DEVICES = [f"/cpu:{place}" for place in range(2)]
RATES = tf.constant([0.1, 0.02, 0.05])


TWO = distribution.choose_strategy(DEVICES, 6)  # one for all: two would take each other's messages


def batches() -> list:
    """Of the second, one device has only padding."""
    training = [small.batch(6, seed)._replace(views=tf.fill([6], seed)) for seed in range(3)]
    training[1] = training[1]._replace(weights=tf.constant([1.0, 1, 1, 0, 0, 0]))
    return training


def trained(strategy, trainable="top", optimizer="sgd", one_call=True, recipe=None, **changes):
    recipe = small.recipe(label_smoothing=0.1, batch_size=6, **(recipe or {}))
    with strategy.scope():
        net = small.network(hidden_units=12)
        small.enliven(net.model)
        weights = (0.5, 2.0, 7.0)
        change = augmentations.compose(parse_calls("rotate|flip"))
        training = trainer(
            trainable, optimizer, net=net, recipe=recipe, class_weights=weights, augment=change,
            **changes,
        )  # fmt: skip
        training.before = small.values(net.model.weights)
        if one_call:
            training.steps(small.stacked(*batches()), RATES)
        else:
            for batch, rate in zip(batches(), RATES, strict=True):
                training.step(batch, rate)
        training.recorded = training.metrics.read()
    return training


def agree(one, other, atol=1e-5) -> None:
    for mine, others in zip(one.net.model.weights, other.net.model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), others.numpy(), atol=atol, err_msg=mine.path)


def test_two_devices_hold_a_variable_twice():
    with TWO.scope():
        assert tf.distribute.get_strategy().num_replicas_in_sync == 2
        variable = keras.Variable([1.0])
    assert len(variable.value.values) == 2


MOMENTUM = ("sgd", {"options": {"momentum": 0.9}})
CLIPPED = ("sgd", {"clip_global_norm": 0.1, "weight_decay": 0.01, "layer_decay": 0.5})


@pytest.mark.parametrize(
    ("trainable", "optimizer", "changes"),
    [
        ("top", *MOMENTUM),
        ("top", *CLIPPED),
        ("head", "adam", {}),
        pytest.param("head", *MOMENTUM, marks=pytest.mark.slow),
        pytest.param("head", *CLIPPED, marks=pytest.mark.slow),
        pytest.param("top", "adam", {}, marks=pytest.mark.slow),
    ],
)
def test_update_on_two_devices_equals_that_of_one(trainable, optimizer, changes):
    one, two = (trained(s, trainable, optimizer, **changes) for s in (ONE, TWO))
    assert len(moved(one.net.model, one.before)) == {"head": 4, "top": 8}[trainable]
    agree(one, two)
    assert two.recorded.loss == pytest.approx(one.recorded.loss, rel=1e-6)
    assert (two.recorded.accuracy, two.recorded.examples) == (one.recorded.accuracy, 15)
    assert float(two.optimizer.learning_rate.numpy()) == pytest.approx(0.05)


def test_microbatches_on_two_devices_equal_the_whole_batch():
    """Three to each device, one by one, with dropout, which is drawn by example."""
    recipe = {"dropout": 0.3}
    one = trained(ONE, recipe=recipe)
    two = trained(TWO, recipe={**recipe, "gradient_accumulation_steps": 3})
    agree(one, two)
    assert two.recorded.loss == pytest.approx(one.recorded.loss, rel=1e-6)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_variables_of_both_devices_are_equal(batch_norm):
    """But for statistics that train: each has those of its share, and the first one's are read."""
    average = parse_calls("ema")[0] if batch_norm == "frozen" else None
    training = trained(TWO, "top", "adam", batch_norm=batch_norm, average=average)
    statistics = {path for path in moved(training.net.model, training.before) if "moving" in path}
    assert len(statistics) == {"frozen": 0, "train": 2}[batch_norm]
    for variable in [*training.net.model.weights, *training.optimizer.variables]:
        one, other = (part.numpy() for part in variable.value.values)
        assert np.array_equal(one, other) == (variable.path not in statistics), variable.path
        assert np.array_equal(variable.numpy(), one)


def test_batchnorm_check_measures_the_shares():
    """Each is normalised by itself, as a microbatch on one device is."""
    found = []
    for strategy, microbatches in ((ONE, 2), (TWO, 1)):
        recipe = {"gradient_accumulation_steps": microbatches}
        training = trained(strategy, batch_norm="train", recipe=recipe)
        with strategy.scope():
            found.append(
                batchnorm_check.check_batchnorm(training.steps, [small.stacked(small.batch(6, 9))])
            )
    assert found[0].training.loss != found[0].inference.loss
    assert found[1].training.loss == pytest.approx(found[0].training.loss, abs=1e-4)


def test_steps_in_one_execution_equal_single_steps():
    together, alone = (trained(TWO, one_call=one_call) for one_call in (True, False))
    agree(together, alone, atol=0)
    assert together.recorded == alone.recorded


def test_float16_scales_its_loss_and_skips_overflows():
    half = {"mode": ComputeMode("mixed_float16"), "scale_loss": True}
    one, two = (trained(strategy, **half) for strategy in (ONE, TWO))
    agree(one, two, atol=2e-3)
    before = small.values(two.net.model.weights)
    with TWO.scope():
        two.optimizer.dynamic_scale.assign(2.0**100)
        two.step(batches()[0], RATES[0])
    assert moved(two.net.model, before) == set()
    assert float(two.optimizer.dynamic_scale.numpy()) == 2.0**99
    assert two.metrics.read().bad_step is None, "the loss scale has seen to it"


def test_metrics_are_saved_and_restored():
    with TWO.scope():
        training = trained(TWO)
        state = [np.asarray(part) for part in training.metrics.state]
        assert state[0][3] == 15
        assert state[1].tolist() == [3, 0]
        training.metrics.reset()
        assert not training.metrics.sums.read_value().numpy().any()
        checkpoints.restore(training.metrics.variables, state, "the test")
        assert training.metrics.read() == training.recorded
        training.step(batches()[0], RATES[0])
        assert training.metrics.read().examples == 21


def test_nan_loss_on_one_device_is_known_to_both():
    with TWO.scope():
        training = trained(TWO)
        batch = batches()[0]
        weights = np.array(batch.weights)
        weights[..., -1] = np.nan  # which falls to the second
        training.metrics.reset()
        training.step(batch, RATES[0])
        training.step(batch._replace(weights=tf.constant(weights)), RATES[0])
        assert training.metrics.read().bad_step == 1


def test_resumed_run_ends_with_the_same_bits(coloured, tmp_path):
    """In a phase that reads images and in one that reads cached features, two steps a call."""
    phases = (
        "transfer(epochs=2, average=soup(2))",
        "fine_tune(trainable=middle, epochs=2, optimizer=adam, views=1, average=ema(0.8))",
    )
    recipe = small_recipe(coloured, phases)
    settings = {"cache_budget": CacheBudget(10**8), "steps_per_execution": 2, "devices": TWO}

    def train(place: str, stop_at: int | None = None, **more):
        training = make_job(recipe, tmp_path / place, Watcher(stop_at), **settings, **more)
        with TWO.scope():
            return loop.train(training).result

    assert train("steady")["status"] == "finished"
    for stop in (7, 17):
        with pytest.raises(InterruptedError):
            train("run", stop, checkpoint_minutes=0)
    train("run")
    steady = RunDirectory(tmp_path / "steady")
    assert same_end(RunDirectory(tmp_path / "run"), steady)
    plans = json.loads(steady.plan.read_text())["phases"]
    assert {name: plan["cache"]["slots"] for name, plan in plans.items()} == {
        "transfer": 0,
        "fine_tune": 1,
    }
