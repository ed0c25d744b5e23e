"""Batches and their shares of several devices; `test_two_devices.py` trains on two."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import UserError
from engine.runtime import distribution


def test_batch_that_devices_cannot_share_is_refused():
    two = ["/gpu:0", "/gpu:1"]
    with pytest.raises(UserError, match=r"batch_size=9 with 2 GPUs .*allowed: a multiple of 2;"):
        distribution.choose_strategy(two, 9)
    with pytest.raises(
        UserError, match=r"and gradient_accumulation_steps=3; allowed: a multiple of 6;"
    ):
        distribution.choose_strategy(two, 8, accumulation_steps=3)


def test_one_device_has_the_default_strategy():
    assert distribution.choose_strategy(["/gpu:0"], 9) is tf.distribute.get_strategy()


few = st.integers(1, 8)


@settings(deadline=None, max_examples=60)
@given(count=st.integers(2, 4), microbatches=few, batch_size=st.integers(1, 200))
def test_batch_is_accepted_where_all_microbatches_have_one_size(count, microbatches, batch_size):
    devices = [f"/gpu:{place}" for place in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "MirroredStrategy", list)
        try:
            accepted = distribution.choose_strategy(devices, batch_size, microbatches) == devices
        except UserError:
            accepted = False
    shares = np.array_split(np.arange(batch_size), count)
    sizes = {len(part) for share in shares for part in np.array_split(share, microbatches)}
    assert accepted == (len(sizes) == 1)


class Devices:
    """A number of devices that work one after the other."""

    def __init__(self, count: int) -> None:
        self.num_replicas_in_sync = count

    def run(self, work) -> None:
        for place in range(self.num_replicas_in_sync):
            self.replica_id_in_sync_group = place
            work()


@settings(deadline=None, max_examples=30)
@given(count=few, size=few)
def test_shares_have_one_size_and_are_together_the_batch(count, size):
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
