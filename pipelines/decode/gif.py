"""Extracts the first frame of a GIF in graph operations.

TensorFlow's reader decodes every frame, of whatever size it claims, before it returns one: a small
file can claim any memory. So the file is cut off behind the first frame, whose size is checked.

Format: GIF89a specification (CompuServe 1990), sections 18 to 25.
"""

from __future__ import annotations

import tensorflow as tf

_SCREEN = 13  # bytes: signature and logical screen descriptor
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b"\x3b"
_MIN_BLOCK = 64  # mean bytes of blocks, besides some small ones: all but the last usually have 255
_SMALL_BLOCKS = 1000
_MAX_BLOCKS = 2**18  # of a file, however large: 15 microseconds each
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
    data = tf.io.decode_raw(padded, tf.uint8)
    blocks = tf.minimum(length // _MIN_BLOCK + _SMALL_BLOCKS, _MAX_BLOCKS)
    start = tf.minimum(_SCREEN + _table(data[10]), length)
    at, blocks = tf.while_loop(
        lambda at, blocks: (data[at] == _EXTENSION) & (blocks > 0),
        lambda at, blocks: _behind_blocks(data, tf.minimum(at + 2, length), blocks - 1),
        (start, blocks),
    )
    present = data[at] == _IMAGE
    numbers = tf.reshape(tf.cast(data[at + 1 : at + 9], tf.int32), [4, 2])
    frame = tf.where(present, numbers[:, 0] + 256 * numbers[:, 1], -1)
    pixels = at + 10 + _table(data[at + 9]) + 1  # behind a byte for the size of codes
    end, _ = _behind_blocks(data, tf.minimum(pixels, length), blocks)
    end = tf.where(present, end, at)
    return tf.strings.join([tf.strings.substr(contents, 0, end), _TRAILER]), frame


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of the colour table behind a descriptor with these flags."""
    flags = tf.cast(flags, tf.int32)
    return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)


def _behind_blocks(
    data: tf.Tensor, at: tf.Tensor, blocks: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Follows a chain of blocks at `at`: each begins with its length, the last with 0.

    Args:
      blocks: how many may be followed, so that no file takes minutes.

    Returns:
      The end of the chain, and how many blocks are left.
    """
    last = tf.size(data) - _SPARE
    at, blocks = tf.while_loop(
        lambda at, blocks: (data[at] > 0) & (blocks > 0),
        lambda at, blocks: (tf.minimum(at + 1 + tf.cast(data[at], tf.int32), last), blocks - 1),
        (at, blocks),
    )
    return tf.minimum(at + 1, last), blocks
