"""Devices that can't share a batch are refused; what several do, `test_two_devices.py` tests."""

import pytest
import tensorflow as tf

from engine import replicas
from engine.specs import UserError


def test_a_batch_that_can_not_be_divided_is_refused():
    two = ["/gpu:0", "/gpu:1"]
    with pytest.raises(UserError, match=r"batch_size=9 with 2 GPUs .*allowed: a multiple of 2;"):
        replicas.strategy(two, 9)
    with pytest.raises(UserError, match=r"and accumulate=3; allowed: a multiple of 6;"):
        replicas.strategy(two, 8, pieces=3)


def test_one_device_needs_no_strategy_of_its_own():
    assert replicas.strategy(["/gpu:0"], 9) is tf.distribute.get_strategy()
