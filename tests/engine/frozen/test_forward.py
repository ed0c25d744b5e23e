"""The frozen forward pass: what its outputs are, and how large."""

import types

import tensorflow as tf

from engine.frozen.forward import FrozenForward


def test_row_bytes_are_those_of_all_outputs_of_one_image():
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
    def trunk(images):
        pooled = tf.reduce_mean(images, [1, 2])
        return [images, tf.cast(images[:, :4], tf.float16), tf.cast(pooled, tf.bfloat16)]

    augmentation = types.SimpleNamespace(apply=lambda images, numbers: images, draws=0)
    forward = FrozenForward(0, augmentation, trunk)
    assert forward.outputs == [((8, 8, 3), "float32"), ((4, 8, 3), "float16"), ((3,), "bfloat16")]
    assert forward.row_bytes == 4 * 192 + 2 * 96 + 2 * 3
