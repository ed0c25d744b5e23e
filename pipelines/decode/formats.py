"""Readers of each image format, with checks for files that TensorFlow would decode wrongly.

`OTHERS` has every format but JPEG, which `decode` reads. The readers are graph operations; they
refuse by `tf.raw_ops.Assert`, an InvalidArgumentError with the reason. Alpha is dropped and not
blended, as by Pillow's `convert("RGB")`; transparent pixels of a GIF are black.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipelines.decode import exif, gif, unsupported
from pipelines.decode.bounds import checked, require, require_few_texts, require_size
from pipelines.decode.file_bytes import TEXT, integers, outlined

JPEG_MAGIC = b"\xff\xd8\xff"
_ALL = 2**31 - 1  # bytes
_CANVASES = 4  # that libwebp allocates for an animation


class ImageFormat(NamedTuple):
    """A format's first bytes and its readers.

    size: contents -> int32 [2], height and width as its header claims.
    read: contents -> (uint8 [h, w, 3], orientation 1…8); the size has been checked.
    """

    magic: bytes
    magic_at: int
    size: Callable[[tf.Tensor], tf.Tensor]
    read: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether the first bytes are those of a JPEG file, bool scalar."""
    return tf.strings.substr(contents, 0, len(JPEG_MAGIC)) == JPEG_MAGIC


@outlined(TEXT)
def measure_other(contents: tf.Tensor) -> tf.Tensor:
    """Returns the height and width that the header of another format than JPEG claims, int32 [2].

    Raises:
      tf.errors.InvalidArgumentError: too large, or of an unknown kind.
    """
    readers = [lambda entry=entry: entry.size(contents) for entry in OTHERS.values()]
    size = tf.switch_case(_format_index(contents), [*readers, lambda: _unknown(contents)])
    return checked(size, require_size(size))


@outlined(TEXT)
def read_other(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes formats other than JPEG.

    Args:
      contents: string scalar that `measure_other` has accepted.

    Returns:
      uint8 [h, w, 3] and the orientation, int32 scalar, 1…8.

    Raises:
      tf.errors.InvalidArgumentError: the file is damaged, or unsupported.
    """
    readers = [lambda entry=entry: entry.read(contents) for entry in OTHERS.values()]
    return tf.switch_case(_format_index(contents), readers)


def _format_index(contents: tf.Tensor) -> tf.Tensor:
    """Returns the place in `OTHERS`, int32 scalar, its length for no format."""
    padded = tf.strings.join([tf.strings.substr(contents, 0, 16), b"\0" * 16])
    matches = [
        tf.strings.substr(padded, entry.magic_at, len(entry.magic)) == entry.magic
        for entry in OTHERS.values()
    ]
    return tf.argmax(tf.stack([*matches, tf.constant(True)]), output_type=tf.int32)


def _unknown(contents: tf.Tensor) -> tf.Tensor:
    return checked(tf.zeros([2], tf.int32), require(False, unsupported.describe(contents)))


def _png_size(contents: tf.Tensor) -> tf.Tensor:
    return integers(contents, 16, 2, tf.int32, little_endian=False)[::-1]


def _png(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    contents = checked(contents, require_few_texts(contents))
    return tf.io.decode_png(contents, channels=3), exif.in_png(contents)


def _gif_size(contents: tf.Tensor) -> tf.Tensor:
    return integers(contents, 6, 2, tf.uint16)[::-1]


def _gif(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(_gif_size(contents))
    contents, frame = gif.first_frame(contents)
    # TensorFlow returns the first frame only, without the screen around it.
    fills = tf.reduce_all((frame == tf.stack([0, 0, width, height])) | (frame < 0))
    contents = checked(
        contents,
        require(fills, "GIF whose first frame does not fill it, which TensorFlow misplaces"),
    )
    return _first_frame(contents, channels=3), tf.constant(1)


def _webp_size(contents: tf.Tensor) -> tf.Tensor:
    """Finds the size by the container specification, RFC 6386 (VP8) and RFC 9649 (VP8L)."""
    head = integers(contents, 0, 21)
    kind = head[15]
    extended = tf.stack([_integer(contents, 27), _integer(contents, 24)]) % 2**24 + 1
    bits = _integer(contents, 21)
    lossless = tf.stack([bits // 2**14, bits]) % 2**14 + 1
    lossy = integers(contents, 26, 2, tf.uint16)[::-1] % 2**14
    size = tf.where(kind == ord("X"), extended, tf.where(kind == ord("L"), lossless, lossy))
    known = tf.reduce_all(head[12:15] == [*b"VP8"]) & tf.reduce_any(kind == [*b"X L"])
    # Otherwise TensorFlow would try other formats, and libwebp bare pixels.
    known &= tf.reduce_all(head[:4] == [*b"RIFF"])
    canvases = tf.where(_is_animated(contents), _CANVASES, 1)
    return checked(size, require(known, "WebP of an unknown kind"), require_size(size, canvases))


def _is_animated(contents: tf.Tensor) -> tf.Tensor:
    kind, flags = tf.unstack(tf.gather(integers(contents, 0, 21), [15, 20]))
    return (kind == ord("X")) & (flags // 2 % 2 == 1)


def _webp(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    whole = tf.cond(_is_animated(contents), lambda: _with_alpha_flag(contents), lambda: contents)
    return _first_frame(whole, channels=0)[:, :, :3], exif.in_webp(contents)


def _with_alpha_flag(contents: tf.Tensor) -> tf.Tensor:
    """Sets the alpha bit of an animation, and of the others only that it is one.

    Its frames have four channels whatever the bit. TensorFlow (2.21) allocates three where it is
    not set and writes four, beyond its buffer.
    """
    before, behind = tf.strings.substr(contents, 0, 20), tf.strings.substr(contents, 21, _ALL)
    return tf.strings.join([before, b"\x12", behind])


def _bmp_size(contents: tf.Tensor) -> tf.Tensor:
    """Rows of negative height are stored from the top; -2^31 stays negative."""
    offset, header_size, width, height = tf.unstack(integers(contents, 10, 4, tf.int32))
    valid = (header_size >= 40) & (width > 0) & (offset > 0) & (height > -(2**31))
    size = tf.stack([tf.abs(height), width])
    return checked(size, require(valid, "BMP of an old or broken kind"))


def _bmp(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads Windows bitmaps of 24 and 32 bits, and of 8 with a plain grey palette.

    TensorFlow reads palette indices as greys, and ignores compression and bit masks.
    """
    offset, header_size = tf.unstack(integers(contents, 10, 2, tf.int32))
    rows, width = tf.unstack(_bmp_size(contents))
    bits, compression = integers(contents, 28, 1, tf.uint16)[0], _integer(contents, 30)
    masks = tf.reduce_all(integers(contents, 54, 3, tf.int32) == [0xFF0000, 0xFF00, 0xFF])
    plain = (compression == 0) | ((compression == 3) & (bits == 32) & masks)
    grey = (bits == 8) & _has_grey_palette(contents, header_size)
    stride = (tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) + 31) // 32 * 4
    end = tf.cast(offset, tf.int64) + stride * tf.cast(rows, tf.int64)
    contents = checked(
        contents,
        require((bits == 24) | (bits == 32) | (bits == 8), "BMP of 1, 4 or 16 bits a pixel"),
        require(plain, "compressed BMP, which TensorFlow cannot decode"),
        require(grey | (bits != 8), "palette BMP, which TensorFlow decodes to wrong colours"),
        require(end <= tf.cast(tf.strings.length(contents), tf.int64), "truncated BMP"),
    )
    # TensorFlow refuses the few bytes that some programs write behind the pixels.
    pixels = tf.io.decode_bmp(tf.strings.substr(contents, 0, tf.cast(end, tf.int32)))
    return _three_channels(pixels), tf.constant(1)


def _has_grey_palette(contents: tf.Tensor, header_size: tf.Tensor) -> tf.Tensor:
    at = tf.clip_by_value(header_size, 0, 1 << 10) + 14
    palette = tf.reshape(integers(contents, at, 1024), [256, 4])[:, :3]
    return tf.reduce_all(palette == tf.range(256)[:, None])


def _three_channels(pixels: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of uint8 [h, w, 1, 3 or 4]: repeats greys, drops alpha."""
    grey = tf.shape(pixels)[2] == 1
    return tf.cond(grey, lambda: tf.repeat(pixels, 3, axis=2), lambda: pixels[:, :, :3])


def _first_frame(contents: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.io.decode_image(contents, channels, expand_animations=False)


def _integer(contents: tf.Tensor, at: int) -> tf.Tensor:
    return integers(contents, at, 1, tf.int32)[0]


OTHERS = {
    "PNG": ImageFormat(b"\x89PNG\r\n\x1a\n", 0, _png_size, _png),
    "BMP": ImageFormat(b"BM", 0, _bmp_size, _bmp),
    "GIF": ImageFormat(b"GIF8", 0, _gif_size, _gif),
    "WebP": ImageFormat(b"WEBP", 8, _webp_size, _webp),
}
