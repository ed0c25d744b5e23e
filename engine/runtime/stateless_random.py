"""Random numbers as a pure function of (seed, epoch, example).

One draw is one output word of the counter-based generator Threefry-2x32 with 20 rounds (Salmon et
al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011): the key is (seed, epoch), the counter
(example, stream and position). There is no state to save, and no draw depends on the batch that
an example happens to be in.
"""

from __future__ import annotations

import tensorflow as tf

AUGMENT, DROPOUT, VIEW = 0, 1, 2  # streams: draws for different uses must not coincide
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_STREAM_BITS = 24  # the low bits of the second counter word are the position within the stream


def uniform(
    seed: int, stream: int, epochs: tf.Tensor, examples: tf.Tensor, count: int
) -> tf.Tensor:
    """Returns numbers in [0, 1), uniform over the multiples of 2**-24.

    Args:
      seed: 0 to 2**32 - 1.
      stream: what the numbers are for: AUGMENT, DROPOUT or VIEW.
      epochs: int32 [B].
      examples: int32 [B].
      count: how many numbers each example gets, at most 2**25.

    Returns:
      float32 [B, count].
    """
    pairs = (count + 1) // 2
    with tf.device("CPU"):  # a few thousand integers: not worth a trip to the device
        zeros = tf.zeros([tf.shape(examples)[0], pairs], tf.uint32)
        position = tf.cast(tf.range(pairs), tf.uint32) + tf.constant(
            stream << _STREAM_BITS, tf.uint32
        )
        key = tf.constant(seed, tf.uint32), tf.cast(epochs, tf.uint32)[:, None]
        words = threefry2x32(key, (tf.cast(examples, tf.uint32)[:, None] + zeros, position + zeros))
        # Where count is 0, -1 for the number of examples would be ambiguous.
        rows = [tf.shape(examples)[0], 2 * pairs]
        bits = tf.reshape(tf.stack(words, -1), rows)[:, :count]
        return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2**-24


def threefry2x32(key: tuple, counter: tuple) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns two uint32 words for each (key, counter), pairs of uint32 tensors that broadcast."""
    x, y = counter
    keys = (*key, key[0] ^ key[1] ^ tf.constant(_PARITY, tf.uint32))
    x, y = x + keys[0], y + keys[1]
    for block in range(5):
        for bits in _ROTATIONS[block % 2]:
            x = x + y
            y = _rotate_left(y, bits) ^ x
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + tf.constant(block + 1, tf.uint32)
    return x, y


def _rotate_left(word: tf.Tensor, bits: int) -> tf.Tensor:
    left = tf.bitwise.left_shift(word, tf.constant(bits, tf.uint32))
    return left | tf.bitwise.right_shift(word, tf.constant(32 - bits, tf.uint32))
