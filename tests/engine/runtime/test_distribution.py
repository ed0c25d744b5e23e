"""Devices that can't share a batch are refused; what several do, `test_two_devices.py` tests."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as some

from engine.core.errors import UserError
from engine.runtime import distribution


def test_a_batch_that_can_not_be_divided_is_refused():
    two = ["/gpu:0", "/gpu:1"]
    with pytest.raises(UserError, match=r"batch_size=9 with 2 GPUs .*allowed: a multiple of 2;"):
        distribution.choose_strategy(two, 9)
    with pytest.raises(
        UserError, match=r"and gradient_accumulation_steps=3; allowed: a multiple of 6;"
    ):
        distribution.choose_strategy(two, 8, accumulation_steps=3)


def test_one_device_needs_no_strategy_of_its_own():
    assert distribution.choose_strategy(["/gpu:0"], 9) is tf.distribute.get_strategy()


few = some.integers(1, 8)


@settings(deadline=None, max_examples=60)
@given(count=some.integers(2, 4), pieces=few, batch_size=some.integers(1, 200))
def test_a_batch_is_taken_where_every_piece_of_every_share_is_of_one_size(
    count, pieces, batch_size
):
    devices = [f"/gpu:{place}" for place in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "MirroredStrategy", list)
        try:
            taken = distribution.choose_strategy(devices, batch_size, pieces) == devices
        except UserError:
            taken = False
    shares = np.array_split(np.arange(batch_size), count)
    sizes = {len(piece) for share in shares for piece in np.array_split(share, pieces)}
    assert taken == (len(sizes) == 1)


class Devices:
    """As many as are wished for, which work one after the other."""

    def __init__(self, count: int) -> None:
        self.num_replicas_in_sync = count

    def run(self, work) -> None:
        for place in range(self.num_replicas_in_sync):
            self.replica_id_in_sync_group = place
            work()


@settings(deadline=None, max_examples=30)
@given(count=few, size=few)
def test_shares_are_of_one_size_and_together_the_batch(count, size):
    devices, shares = Devices(count), []
    batch = {"numbers": np.arange(count * size), "images": np.random.rand(count * size, 2, 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", lambda: devices)
        patch.setattr(tf.distribute, "get_replica_context", lambda: devices)
        distribution.run_on_replicas(
            lambda share, rate: shares.append((share, rate)),
            tf.nest.map_structure(tf.constant, batch),
            tf.constant(0.1),
        )
    assert len(shares) == count
    for name, column in batch.items():
        parts = [share[name] for share, _ in shares]
        assert {len(part) for part in parts} == {size}
        assert np.array_equal(np.concatenate(parts), column)
