"""Reads the encoded bytes of examples inside tf.data pipelines, on threads of their own."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipelines.sources.examples import WHOLE_FILE, Examples, read

IMAGES_PER_THREAD = 2  # in flight: with one, threads wait for the slowest image's turn


def make_reader(examples: Examples) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a graph function from an example's number, int32 scalar, to its encoded bytes."""
    if (examples.lengths == WHOLE_FILE).all():
        paths = tf.constant(examples.encoded_paths())
        return lambda number: tf.io.read_file(tf.gather(paths, number))

    def read_bytes(number: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            lambda n: read(examples, int(n)), [number], tf.string, stateful=False
        )
        return tf.ensure_shape(contents, [])

    return read_bytes


def dataset_options(threads: int) -> tf.data.Options:
    """Gives a pipeline threads of its own, since the model's pool may be a single one."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.autotune.enabled = False
    return options
