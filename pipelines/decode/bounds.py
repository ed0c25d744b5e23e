"""Bounds the work and the memory of an image by its headers and markers, before it is decoded.

Everything that decodes passes here: training, the doctor, predicting, serving and exported models.
One image can take some seconds and a gigabyte at most. Large ones of a process are decoded one
after the other, so that as many as there are threads don't take as many gigabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from pipelines.decode.file_bytes import TEXT, integers, outlined

PIXEL_LIMIT = 178_956_970  # pixels: where Pillow raises DecompressionBombError
SIDE_LIMIT = 65_535  # pixels: the largest of JPEG and GIF; resampling holds some whole rows
TOO_LARGE = f"more than {PIXEL_LIMIT:,} pixels, or {SIDE_LIMIT:,} on a side"
TOO_MANY_SCANS = "JPEG of too many scans"
TOO_MANY_TEXTS = "PNG of too many compressed texts"

# libjpeg visits every block once a scan: 1.5 ns a pixel where a scan refines another. Programs
# write about ten.
_WORK_LIMIT = 16 * PIXEL_LIMIT  # pixels visited
_SCAN_OVERHEAD = 4096  # pixels visited in the time that a scan takes to begin
_SCAN_BYTES = 11  # at least
_MAX_SCANS = 2**20  # counted: more are beyond the limit at any size
_MAX_SEGMENTS = 1000  # before the first scan
_MAX_TEXTS = 16  # libpng unpacks up to 8 MB of each, whatever is wanted,
_TEXT_BYTES = 2**13  # which takes so many bytes at least
_LARGE = 2**25  # pixels
_PIXELS_OF_ROWS = 8  # pixels whose memory a resampled one takes: float32, in two orders

Decoded = tuple[tf.Tensor, tf.Tensor]  # an image and its orientation as stored


def require(condition: tf.Tensor, reason: str | tf.Tensor) -> tf.Operation:
    """Refuses the image with a reason of one short line unless the condition holds."""
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(reason)])


def checked(contents: tf.Tensor, *checks: tf.Operation | None) -> tf.Tensor:
    """Returns the contents once the checks have passed; eager ones have run and are None."""
    with tf.control_dependencies(checks):
        return tf.identity(contents)


def require_size(size: tf.Tensor, share: tf.Tensor | int = 1) -> tf.Operation:
    """Refuses an image whose header claims too many pixels.

    Args:
      size: int [2], height and width; negative where they don't fit into an int32.
      share: the area has to fit into the limit so many times.
    """
    size = tf.cast(size, tf.int64)
    fits = (_area(size) <= PIXEL_LIMIT // tf.cast(share, tf.int64)) & (
        tf.reduce_max(size) <= SIDE_LIMIT
    )
    return require(fits, TOO_LARGE)


def require_few_texts(contents: tf.Tensor) -> tf.Operation:
    """Refuses a PNG file with many chunks of compressed text, `zTXt` or `iTXt`."""
    suspect = tf.strings.length(contents) > _MAX_TEXTS * _TEXT_BYTES
    count = tf.cond(
        suspect,
        lambda: _count(contents, b"TXt", _MAX_TEXTS + 1),
        lambda: tf.constant(0, tf.int64),
    )
    return require(count <= _MAX_TEXTS, TOO_MANY_TEXTS)


def count_scans(contents: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Counts the scans of a JPEG file that may be too many or too large; 1 for all others.

    Args:
      size: int32 [2], height and width.

    Returns:
      int64 scalar: 1 too where libjpeg reads only one, and needs no memory for the whole image.
    """
    area, length = _area(size), tf.cast(tf.strings.length(contents), tf.int64)
    suspect = (area > _LARGE) | (_work(length // _SCAN_BYTES, area) > _WORK_LIMIT)
    return tf.cond(suspect, lambda: _count_scans(contents), lambda: tf.constant(1, tf.int64))


def require_few_scans(scans: tf.Tensor, size: tf.Tensor) -> tf.Operation:
    """Refuses a JPEG file whose scans visit too many pixels."""
    return require(_work(scans, _area(size)) <= _WORK_LIMIT, TOO_MANY_SCANS)


def is_large(size: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns whether an image has to wait for its turn, bool scalar.

    Args:
      size: int32 [2], height and width that are decoded.
      rows: int32 scalar, to which the height is resampled.
    """
    held = tf.cast(rows, tf.int64) * tf.cast(size[1], tf.int64) * _PIXELS_OF_ROWS
    return _area(size) + held > _LARGE


def in_turn(large: tf.Tensor, decode: Callable[[], Decoded], alone: bool) -> Decoded:
    """Returns the tensors that `decode` returns.

    A large one waits until no other of this process is being decoded, without occupying a thread.
    Eagerly none waits: an image that is read again for its error, which would hold its turn.

    Args:
      alone: False for none.
    """
    if tf.executing_eagerly() or not alone:
        return decode()
    turn = tf.cond(large, lambda: tf.raw_ops.MutexLock(mutex=_mutex()), _no_turn)
    with tf.control_dependencies([turn]):
        decoded = decode()

    def end() -> tf.Tensor:
        with tf.control_dependencies([tf.raw_ops.ConsumeMutexLock(mutex_lock=turn)]):
            return tf.constant(True)

    # The turn lasts as long as its tensor: until here, or until an error drops it.
    with tf.control_dependencies(tf.nest.flatten(decoded)):
        ended = tf.cond(large, end, lambda: tf.constant(False))
    with tf.control_dependencies([ended]):
        return tf.nest.map_structure(tf.identity, decoded)


def _no_turn() -> tf.Tensor:
    return tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant([], tf.int32), max_num_elements=0, element_dtype=tf.int32
    )


@functools.cache
def _mutex() -> tf.Tensor:
    with tf.init_scope(), tf.device("CPU"):
        return tf.raw_ops.MutexV2(shared_name="large_images")


def _area(size: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(tf.cast(size, tf.int64))


def _work(scans: tf.Tensor, area: tf.Tensor) -> tf.Tensor:
    return scans * (area + _SCAN_OVERHEAD)


def _count(contents: tf.Tensor, mark: bytes, limit: int) -> tf.Tensor:
    """Counts a mark anywhere in a file, up to a limit, int64 scalar: a nanosecond a byte."""
    parts = tf.raw_ops.StringSplitV2(input=[contents], sep=mark, maxsplit=limit)
    return parts.shape[1] - 1


@outlined(TEXT)
def _count_scans(contents: tf.Tensor) -> tf.Tensor:
    """Counts the scans of a JPEG file, from the segments before the first.

    Where these can't be followed to a scan of all components, of a process that needs no other,
    every mark of a scan counts, those of thumbnails too.
    """

    def goes_on(at: tf.Tensor, head: tf.Tensor, frame: tf.Tensor) -> tf.Tensor:
        return (head[0] == 0xFF) & (head[1] > 0) & (head[1] != 0xDA)

    def step(at: tf.Tensor, head: tf.Tensor, frame: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # SOF0…15 but DHT, JPG and DAC, which are multiples of four.
        is_frame = (head[1] // 16 == 0xC) & ((head[1] % 4 != 0) | (head[1] == 0xC0))
        at += 2 + head[2] * 256 + head[3]
        return at, integers(contents, at, 10), tf.where(is_frame, head, frame)

    start = tf.constant(2), integers(contents, 2, 10), tf.zeros([10], tf.int32)
    _, scan, frame = tf.while_loop(goes_on, step, start, maximum_iterations=_MAX_SEGMENTS)
    sequential = (frame[1] >= 0xC0) & (frame[1] % 4 < 2)
    single = sequential & (scan[0] == 0xFF) & (scan[1] == 0xDA) & (scan[4] == frame[9])
    return tf.cond(
        single,
        lambda: tf.constant(1, tf.int64),
        lambda: tf.maximum(_count(contents, b"\xff\xda", _MAX_SCANS), 2),
    )
