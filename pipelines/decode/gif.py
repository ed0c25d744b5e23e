"""Extracts the first frame of a GIF in graph operations.

TensorFlow's reader decodes every frame, of whatever size it claims, before it returns one: a small
file can claim any memory. So the file is cut off behind the first frame, whose size is checked.

Format: GIF89a specification (CompuServe 1990), sections 18 to 25.
"""

from __future__ import annotations

import tensorflow as tf

_SCREEN = 13  # bytes: signature and logical screen descriptor
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b"\x3b"
_MAX_EXTENSIONS = 1000  # before the frame
_MIN_BLOCK = 64  # mean bytes of blocks
_SPARE = 16  # zeros behind the file: they end a truncated one


def first_frame(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts off what follows the first frame.

    Args:
      contents: string scalar, a GIF file, damaged or not.

    Returns:
      string scalar, the file without other frames; and int32 [4], the frame's left, top, width
      and height on the screen, all -1 where there is none.
    """
    length = tf.strings.length(contents)
    padded = tf.strings.join([contents, b"\0" * _SPARE])
    data = tf.cast(tf.io.decode_raw(padded, tf.uint8), tf.int32)
    at = tf.minimum(_SCREEN + _table(data[10]), length)
    (at,) = tf.while_loop(
        lambda at: data[at] == _EXTENSION,
        lambda at: (_behind_blocks(data, tf.minimum(at + 2, length)),),
        (at,),
        maximum_iterations=_MAX_EXTENSIONS,
    )
    present = data[at] == _IMAGE
    numbers = tf.reshape(data[at + 1 : at + 9], [4, 2])
    frame = tf.where(present, numbers[:, 0] + 256 * numbers[:, 1], -1)
    blocks = at + 10 + _table(data[at + 9]) + 1  # behind a byte for the size of codes
    end = tf.where(present, _behind_blocks(data, tf.minimum(blocks, length)), at)
    return tf.strings.join([tf.strings.substr(contents, 0, end), _TRAILER]), frame


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of the colour table behind a descriptor with these flags."""
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _behind_blocks(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Returns the end of a chain of blocks at `at`; each begins with its length, the last with 0.

    All but the last usually have 255 bytes. The number of shorter ones is limited, so that no file
    takes minutes.
    """
    last = tf.size(data) - _SPARE
    (at,) = tf.while_loop(
        lambda at: data[at] > 0,
        lambda at: (tf.minimum(at + 1 + data[at], last),),
        (at,),
        maximum_iterations=last // _MIN_BLOCK + _MAX_EXTENSIONS,
    )
    return tf.minimum(at + 1, last)
