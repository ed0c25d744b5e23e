"""Numbers and stretches of a file's bytes in graph operations, for the readers of headers."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

TEXT = tf.TensorSpec([], tf.string)


def outlined(*signature: tf.TensorSpec) -> Callable:
    """Decorates a branch that seldom runs, so that it costs nothing when skipped.

    Otherwise TensorFlow inlines both branches of a `tf.cond` and visits every operation of the one
    not taken: hundreds, at a microsecond each, where a small JPEG takes 600.
    """
    attributes = {"_noinline": True}
    return tf.function(
        autograph=False, input_signature=signature, experimental_attributes=attributes
    )


def substring(contents: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Returns up to `count` bytes from `at` on, none where that is outside, as a string scalar."""
    size = tf.strings.length(contents)
    inside = (at >= 0) & (at <= size)
    return tf.strings.substr(contents, tf.where(inside, at, size), tf.maximum(count, 0))


def integers(
    contents: tf.Tensor,
    at: tf.Tensor | int,
    count: int,
    dtype: tf.DType = tf.uint8,
    little_endian: bool = True,
) -> tf.Tensor:
    """Reads numbers from byte `at` on as int32 [count], zeros where the file is too short."""
    wanted = count * dtype.size
    text = tf.strings.join([substring(contents, at, wanted), b"\0" * wanted])
    values = tf.io.decode_raw(tf.strings.substr(text, 0, wanted), dtype, little_endian)
    return tf.cast(tf.ensure_shape(values, [count]), tf.int32)
