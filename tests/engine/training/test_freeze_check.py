"""Which variables moved, on a small network."""

from __future__ import annotations

import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.models import freezing
from engine.training.freeze_check import FreezeCheck
from tests.engine import small


@pytest.fixture
def net():
    return small.network()


def begin(net, trainable="top", **phase):
    partition = freezing.partition_model(net, trainable)
    return partition, FreezeCheck(net.model, partition, Phase("tune", trainable, **phase))


def by_name(net, ending):
    return next(v for v in net.model.weights if v.path.endswith(ending))


def move(variables) -> None:
    """In place and compiled, as an optimizer does: the check must hold copies."""

    @tf.function
    def step():
        for variable in variables:
            variable.assign_add(tf.ones_like(variable))

    step()


def test_freeze_check_passes_where_trainable_moved(net):
    partition, audit = begin(net)
    move(partition.variables)
    assert audit.check(trained=True) == []


def test_freeze_check_names_trainable_that_did_not_move(net):
    partition, audit = begin(net)
    still = [by_name(net, "top_conv/bias"), by_name(net, "logits/kernel")]
    move([v for v in partition.variables if all(v is not other for other in still)])
    assert audit.check(trained=True) == [
        "phase 'tune': trainable variables did not move: top_conv/bias, logits/kernel"
    ]


def test_freeze_check_without_steps_passes(net):
    _, audit = begin(net)
    assert audit.check(trained=False) == []


@pytest.mark.parametrize("name", ["low_conv/kernel", "low_norm/gamma", "top_norm/moving_mean"])
def test_freeze_check_raises_where_frozen_moved(net, name):
    partition, audit = begin(net)
    move([*partition.variables, by_name(net, name)])
    with pytest.raises(RuntimeError, match=f"phase 'tune': frozen variables moved: {name}$"):
        audit.check(trained=True)


def test_freeze_check_allows_trained_statistics(net):
    partition, audit = begin(net, batch_norm="train")
    move([*partition.variables, by_name(net, "top_norm/moving_variance")])
    assert audit.check(trained=True) == []


def test_freeze_check_raises_where_frozen_statistics_moved(net):
    partition, audit = begin(net, batch_norm="train")
    move([*partition.variables, by_name(net, "low_norm/moving_mean")])
    with pytest.raises(RuntimeError, match="low_norm/moving_mean"):
        audit.check(trained=True)


def test_freeze_check_treats_nan_as_unchanged(net):
    kernel = by_name(net, "low_conv/kernel")
    kernel.assign(kernel * float("nan"))
    partition, audit = begin(net)
    move(partition.variables)
    assert audit.check(trained=True) == []
