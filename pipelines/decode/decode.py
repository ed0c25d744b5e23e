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
from pipelines.decode import exif, formats, resizing

VERSION = 2  # raise it when the pixels of any image change, so that cached ones are discarded
REDUCTIONS = (1, 2, 4, 8)  # factors that libjpeg supports
SPARE = 2  # the reduced image is at least this many times the target


@tf.autograph.experimental.do_not_convert
def decode(contents: tf.Tensor, height: int, width: int, resize: str = "squash") -> tf.Tensor:
    """Decodes one image of any supported format, applies EXIF orientation and resizes it.

    Supported are JPEG (grey, CMYK, progressive), PNG, BMP, GIF and WebP (the first frame of each),
    distinguished by their first bytes. EXIF orientation is read in JPEG, PNG and WebP. Alpha is
    dropped, 16-bit levels keep their upper byte, grey is repeated.

    Args:
      contents: string scalar, the bytes of the file.
      height, width: of the result, in pixels, above 0.
      resize: `squash`, `crop` or `pad`: see `resizing.placement`.

    Returns:
      uint8 [height, width, 3], RGB, 0…255.

    Raises:
      tf.errors.InvalidArgumentError: when it runs, for a file that is no image, is damaged, or
        that TensorFlow would decode wrongly. See `reason`.
      UserError: an unknown `resize`.
    """
    if resize not in RESIZES:
        raise UserError(f"resize={resize!r}; allowed: {', '.join(RESIZES)}")
    contents = tf.convert_to_tensor(contents, tf.string)
    target = tf.constant([height, width])
    image = tf.cond(
        formats.is_jpeg(contents),
        lambda: _jpeg(contents, target, resize),
        lambda: _other(contents, target, resize),
    )
    return tf.ensure_shape(image, [height, width, 3])


def _jpeg(contents: tf.Tensor, target: tf.Tensor, resize: str) -> tf.Tensor:
    size = tf.io.extract_jpeg_shape(contents)[:2]
    contents = formats.checked(contents, formats.require_size(size[0], size[1]))
    orientation = exif.in_jpeg(contents)
    stored = exif.stored_size(target, orientation)
    scale, offset = resizing.placement(size, stored, resize)
    pixels, reduction = _reduced(contents, scale)
    # Blocks at the right and lower edge may exceed the image: `scale` counts true pixels.
    small = resizing.resample(pixels, scale * reduction, offset, stored)
    return exif.upright(small, orientation)


def _reduced(contents: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns uint8 [h, w, 3] and the reduction, float32 scalar, 1 or more."""
    factors = tf.constant(REDUCTIONS, tf.float32)
    allowed = factors * (SPARE * tf.reduce_max(scale)) <= 1.0
    index = tf.reduce_sum(tf.cast(allowed[1:], tf.int32))
    readers = [
        functools.partial(tf.io.decode_jpeg, contents, 3, ratio, dct_method="INTEGER_ACCURATE")
        for ratio in REDUCTIONS
    ]
    return tf.switch_case(index, readers), factors[index]


def _other(contents: tf.Tensor, target: tf.Tensor, resize: str) -> tf.Tensor:
    pixels, orientation = formats.read_other(contents)
    stored = exif.stored_size(target, orientation)
    scale, offset = resizing.placement(tf.shape(pixels)[:2], stored, resize)
    return exif.upright(resizing.resample(pixels, scale, offset, stored), orientation)


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
