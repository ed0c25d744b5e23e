"""The first frame of a GIF, alone, in graph operations.

TensorFlow's reader works out every frame of a file, and of whatever size each claims to be, before
it gives one away: a small file can ask for any memory. So what is behind the first frame is cut off
before, and that frame's size is looked at.

Format: GIF89a specification (CompuServe 1990), sections 18 to 25.
"""

from __future__ import annotations

import tensorflow as tf

_SCREEN = 13  # bytes: signature and logical screen descriptor
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b"\x3b"
_MOST_EXTENSIONS = 1000  # before the frame
_LEAST_BLOCK = 32  # bytes of blocks on the average
_SPARE = 16  # zeros behind the file: what ends there too early ends


def first_frame(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts off what follows the first frame.

    Args:
      contents: string scalar, a GIF file, damaged or not.

    Returns:
      string scalar, the file with no other frame; and int32 [4], the frame's left, top, width and
      height on the screen, all -1 where there is none.
    """
    length = tf.strings.length(contents)
    padded = tf.strings.join([contents, b"\0" * _SPARE])
    data = tf.cast(tf.io.decode_raw(padded, tf.uint8), tf.int32)
    at = tf.minimum(_SCREEN + _table(data[10]), length)
    (at,) = tf.while_loop(
        lambda at: data[at] == _EXTENSION,
        lambda at: (_behind_blocks(data, tf.minimum(at + 2, length)),),
        (at,),
        maximum_iterations=_MOST_EXTENSIONS,
    )
    present = data[at] == _IMAGE
    numbers = tf.reshape(data[at + 1 : at + 9], [4, 2])
    frame = tf.where(present, numbers[:, 0] + 256 * numbers[:, 1], -1)
    blocks = at + 10 + _table(data[at + 9]) + 1  # behind a byte for the size of codes
    end = tf.where(present, _behind_blocks(data, tf.minimum(blocks, length)), at)
    return tf.strings.join([tf.strings.substr(contents, 0, end), _TRAILER]), frame


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Bytes of the colour table that a descriptor with these flags has behind it."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _behind_blocks(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Where a chain of blocks ends that begins at `at`; each tells its length, the last one 0.

    All but the last have 255 bytes, as a rule. Of those that are shorter so many are looked at that
    no file takes minutes.
    """
    last = tf.size(data) - _SPARE
    (at,) = tf.while_loop(
        lambda at: data[at] > 0,
        lambda at: (tf.minimum(at + 1 + data[at], last),),
        (at,),
        maximum_iterations=last // _LEAST_BLOCK + _MOST_EXTENSIONS,
    )
    return tf.minimum(at + 1, last)
