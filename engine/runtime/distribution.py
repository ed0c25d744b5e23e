"""Data parallelism: runs steps on several devices and sums over them.

With one device nothing is distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from engine.core.errors import UserError


def choose_strategy(
    devices: list[str], batch_size: int, accumulation_steps: int = 1
) -> tf.distribute.Strategy:
    """Returns a strategy with a copy of the model on each of the devices.

    Args:
      accumulation_steps: the number of microbatches of each device's share of a batch.

    Raises:
      UserError: the batch can't be divided among them.
    """
    if len(devices) < 2:
        return tf.distribute.get_strategy()
    divisor = len(devices) * accumulation_steps
    if batch_size % divisor:
        raise UserError(
            f"batch_size={batch_size} with {len(devices)} GPUs and "
            f"gradient_accumulation_steps={accumulation_steps}; allowed: a multiple of {divisor}; "
            "give --batch_size or hide GPUs with CUDA_VISIBLE_DEVICES"
        )
    return tf.distribute.MirroredStrategy(devices)


def run_on_replicas(work: Callable[[Any, tf.Tensor], None], batch: Any, rate: tf.Tensor) -> None:
    """Runs `work(batch, rate)` on each device, each with its share of the batch."""
    strategy = tf.distribute.get_strategy()
    count = strategy.num_replicas_in_sync
    if count == 1:
        work(batch, rate)
        return

    def on_replica() -> None:
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        work(tf.nest.map_structure(lambda column: _share(column, index, count), batch), rate)

    strategy.run(on_replica)


def _share(column: tf.Tensor, index: Any, count: int) -> tf.Tensor:
    size = column.shape[0] // count
    with tf.device("CPU"):  # so that only the share travels to the device
        return tf.ensure_shape(column[index * size : (index + 1) * size], [size, *column.shape[1:]])


def all_reduce_sum(tensors: list) -> list:
    """Returns the sum of each tensor over all devices."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
