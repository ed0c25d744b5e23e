"""Decodes images in graph operations only, the same for training, evaluation and prediction.

A large JPEG is reduced while it is decoded: libjpeg omits the higher half, three quarters or seven
eighths of each block's frequencies, as long as the result is at least twice the target on both
sides. The triangle filter that follows would remove nearly all of them; on photographs the result
differs by less than a grey level on average, and a 12 megapixel image takes two thirds of the time
and a fraction of the memory. Pillow's `thumbnail` does the same, with the same factor.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.recipe import RESIZES
from pipelines.decode import bounds, exif, formats, resizing
from pipelines.decode.bounds import Decoded

VERSION = 3  # raise it when the pixels of any image change, so that cached ones are discarded
REDUCTIONS = (1, 2, 4, 8)  # factors that libjpeg supports
# The first bytes of a JPEG file and Adobe's segment: version 100, no transform of colours.
ADOBE_MARK = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
SPARE = 2  # the reduced image is at least this many times the target


@tf.autograph.experimental.do_not_convert
def decode(
    contents: tf.Tensor, height: int, width: int, resize: str = "squash", alone: bool = True
) -> tf.Tensor:
    """Decodes one image of any supported format, applies EXIF orientation and resizes it.

    Supported are JPEG (grey, CMYK, progressive), PNG, BMP, GIF and WebP (the first frame of each),
    distinguished by their first bytes. EXIF orientation is read in JPEG, PNG and WebP. Alpha is
    dropped, 16-bit levels keep their upper byte, grey is repeated.

    Args:
      contents: string scalar, the bytes of the file.
      height, width: of the result, in pixels, above 0.
      resize: `squash`, `crop` or `pad`: see `resizing.placement`.
      alone: whether a large image waits for others of this process; False in an exported model.

    Returns:
      uint8 [height, width, 3], RGB, 0…255.

    Raises:
      tf.errors.InvalidArgumentError: when it runs, for a file that is no image, is damaged, or
        that TensorFlow would decode wrongly. See `reason`.
      UserError: an unknown `resize`.
    """
    return decode_oriented(contents, height, width, resize, alone)[0]


@tf.autograph.experimental.do_not_convert
def decode_oriented(
    contents: tf.Tensor, height: int, width: int, resize: str = "squash", alone: bool = True
) -> Decoded:
    """Decodes as `decode`; returns the image and the orientation as stored, int32 scalar, 1…8."""
    if resize not in RESIZES:
        raise UserError(f"resize={resize!r}; allowed: {', '.join(RESIZES)}")
    contents = tf.convert_to_tensor(contents, tf.string)
    target = tf.constant([height, width])
    image, orientation = tf.cond(
        formats.is_jpeg(contents),
        lambda: _jpeg(contents, target, resize, alone),
        lambda: _other(contents, target, resize, alone),
    )
    return tf.ensure_shape(image, [height, width, 3]), orientation


def _jpeg(contents: tf.Tensor, target: tf.Tensor, resize: str, alone: bool) -> Decoded:
    shape = tf.io.extract_jpeg_shape(contents)
    size = shape[:2]
    contents = tf.cond(shape[2] == 4, lambda: _marked_by_adobe(contents), lambda: contents)
    scans = bounds.count_scans(contents, size)
    contents = bounds.checked(
        contents, bounds.require_size(size), bounds.require_few_scans(scans, size)
    )
    orientation = exif.in_jpeg(contents)
    stored = exif.stored_size(target, orientation)
    scale, offset = resizing.placement(size, stored, resize)
    index = _reduction(scale)
    factor = tf.constant(REDUCTIONS)[index]

    def read() -> Decoded:
        readers = [
            functools.partial(tf.io.decode_jpeg, contents, 3, ratio, dct_method="INTEGER_ACCURATE")
            for ratio in REDUCTIONS
        ]
        pixels = tf.switch_case(index, readers)
        # Blocks at the right and lower edge may exceed the image: `scale` counts true pixels.
        shrunk = scale * tf.cast(factor, tf.float32)
        image = resizing.resample(pixels, shrunk, offset, stored)
        return exif.upright(image, orientation), orientation

    # Of several scans libjpeg holds the whole image, however small it becomes.
    held = size // tf.where(scans > 1, 1, factor)
    return bounds.in_turn(bounds.is_large(held, stored[0]), read, alone)


def _marked_by_adobe(contents: tf.Tensor) -> tf.Tensor:
    """Says of a CMYK JPEG that its levels are inverted, as Pillow and browsers take all of them.

    TensorFlow does so only for files with Adobe's marker. A file's own comes later and counts.
    """
    return tf.strings.join([ADOBE_MARK, tf.strings.substr(contents, 2, 2**31 - 1)])


def _reduction(scale: tf.Tensor) -> tf.Tensor:
    """Returns the place in REDUCTIONS of the factor by which libjpeg shrinks, int32 scalar."""
    factors = tf.constant(REDUCTIONS, tf.float32)
    allowed = factors * (SPARE * tf.reduce_max(scale)) <= 1.0
    return tf.reduce_sum(tf.cast(allowed[1:], tf.int32))


def _other(contents: tf.Tensor, target: tf.Tensor, resize: str, alone: bool) -> Decoded:
    size = formats.measure_other(contents)

    def read() -> Decoded:
        pixels, orientation = formats.read_other(contents)
        stored = exif.stored_size(target, orientation)
        scale, offset = resizing.placement(tf.shape(pixels)[:2], stored, resize)
        image = resizing.resample(pixels, scale, offset, stored)
        return exif.upright(image, orientation), orientation

    return bounds.in_turn(bounds.is_large(size, tf.reduce_max(target)), read, alone)


def reason(error: Exception) -> str:
    """Describes why an image could not be decoded, in one short line without operation names.

    Args:
      error: raised by `decode`, eagerly or in a `tf.data` pipeline.

    Returns:
      `empty file`, `truncated or damaged JPEG` and the like; the first line of other errors.
    """
    text = str(getattr(error, "message", error))
    own = re.search(r"assertion failed: \[(.*?)\]", text)
    if own:
        return own.group(1)
    named = re.search(r"\b(JPEG|PNG|BMP|GIF|WebP)\b", text)
    if named and isinstance(error, tf.errors.InvalidArgumentError):
        return f"truncated or damaged {named.group(1)}"
    line = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", text).strip().splitlines()
    return line[0].strip() if line else type(error).__name__


def make_decoder(image_size: tuple[int, int], resize: str) -> Callable[[bytes], np.ndarray]:
    """Returns a function of the bytes of a file to uint8 [H, W, 3].

    It raises a UserError for an image that can't be decoded.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def pixels(contents: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):
            return decode(contents, *image_size, resize)

    def decode_file(contents: bytes) -> np.ndarray:
        try:
            return pixels(contents).numpy()
        except tf.errors.OpError as error:
            raise UserError(reason(error)) from None

    decode_file(tf.io.encode_png(tf.zeros([2, 2, 3], tf.uint8)).numpy())  # compiles
    return decode_file
