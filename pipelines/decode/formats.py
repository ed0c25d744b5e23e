"""Readers of each image format, with checks for files that TensorFlow would decode wrongly.

`OTHERS` has every format but JPEG, which `decode` reads. The readers are graph operations; they
refuse by `tf.raw_ops.Assert`, an InvalidArgumentError with the reason. Alpha is dropped and not
blended, as by Pillow's `convert("RGB")`; transparent pixels of a GIF are black.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipelines.decode import exif, gif

PIXEL_LIMIT = 178_956_970  # pixels: where Pillow raises DecompressionBombError
JPEG_MAGIC = b"\xff\xd8\xff"
NOT_AN_IMAGE = "not an image (JPEG, PNG, BMP, GIF, WebP)"
_ALL = 2**31 - 1  # bytes
TOO_LARGE = f"more than {PIXEL_LIMIT:,} pixels"


class ImageFormat(NamedTuple):
    """A format's first bytes and its reader: contents -> (uint8 [h, w, 3], orientation 1…8)."""

    magic: bytes
    magic_at: int
    read: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def require(condition: tf.Tensor, reason: str | tf.Tensor) -> tf.Operation:
    """Refuses the image with a reason of one short line unless the condition holds."""
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(reason)])


def require_size(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    """Refuses an image whose header claims more than PIXEL_LIMIT pixels."""
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return require(area <= PIXEL_LIMIT, TOO_LARGE)


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether the first bytes are those of a JPEG file, bool scalar."""
    return tf.strings.substr(contents, 0, len(JPEG_MAGIC)) == JPEG_MAGIC


@exif.outlined(exif.TEXT)
def read_other(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes formats other than JPEG.

    Args:
      contents: string scalar.

    Returns:
      uint8 [h, w, 3] and the orientation, int32 scalar, 1…8.

    Raises:
      tf.errors.InvalidArgumentError: the file is of another format, damaged, or unsupported.
    """
    padded = tf.strings.join([tf.strings.substr(contents, 0, 16), b"\0" * 16])
    matches = [
        tf.strings.substr(padded, entry.magic_at, len(entry.magic)) == entry.magic
        for entry in OTHERS.values()
    ]
    index = tf.argmax(tf.stack([*matches, tf.constant(True)]), output_type=tf.int32)
    readers = [lambda entry=entry: entry.read(contents) for entry in OTHERS.values()]
    return tf.switch_case(index, [*readers, lambda: _unknown(contents)])


def _unknown(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    reason = tf.where(tf.strings.length(contents) == 0, "empty file", NOT_AN_IMAGE)
    with tf.control_dependencies(_operations(require(tf.constant(False), reason))):
        return tf.zeros([1, 1, 3], tf.uint8), tf.constant(1)


def _png(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    width, height = tf.unstack(_header(contents, 16, tf.int32, 2, little_endian=False))
    size = require_size(height, width)
    with tf.control_dependencies(_operations(size)):
        return tf.io.decode_png(tf.identity(contents), channels=3), exif.in_png(contents)


def _gif(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    width, height = tf.unstack(tf.cast(_header(contents, 6, tf.uint16, 2), tf.int32))
    contents, frame = gif.first_frame(contents)
    # TensorFlow returns the first frame only, without the screen around it.
    fills = tf.reduce_all((frame == tf.stack([0, 0, width, height])) | (frame < 0))
    checks = [
        require_size(height, width),
        require(fills, "GIF whose first frame does not fill it, which TensorFlow misplaces"),
    ]
    with tf.control_dependencies(_operations(*checks)):
        return _first_frame(tf.identity(contents), channels=3), tf.constant(1)


def _webp(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the size by the container specification, RFC 6386 (VP8) and RFC 9649 (VP8L)."""
    head = tf.cast(_header(contents, 0, tf.uint8, 32), tf.int32)
    kind = head[15]
    extended = tf.stack([_little(head[27:30]), _little(head[24:27])]) + 1
    lossless = tf.stack([_little(head[21:25]) // 2**14, _little(head[21:25])]) % 2**14 + 1
    lossy = tf.stack([_little(head[28:30]), _little(head[26:28])]) % 2**14
    size = tf.where(kind == ord("X"), extended, tf.where(kind == ord("L"), lossless, lossy))
    known = tf.reduce_all(head[12:15] == [*b"VP8"]) & tf.reduce_any(kind == [*b"X L"])
    # Otherwise TensorFlow would try other formats, and libwebp bare pixels.
    checks = [
        require(tf.reduce_all(head[:4] == [*b"RIFF"]) & known, "WebP of an unknown kind"),
        require_size(size[0], size[1]),
    ]
    with tf.control_dependencies(_operations(*checks)):
        pixels = _first_frame(_with_alpha_flag(contents, kind, head[20]), channels=0)
    return pixels[:, :, :3], exif.in_webp(contents)


def _with_alpha_flag(contents: tf.Tensor, kind: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
    """Sets the alpha bit of an animation.

    Its frames have four channels whatever the bit. TensorFlow (2.21) allocates three where it is
    not set and writes four, beyond its buffer.
    """
    animated = (kind == ord("X")) & (flags // 2 % 2 == 1)
    flags = tf.where(animated, tf.bitwise.bitwise_or(flags, 0x10), flags)
    byte = tf.gather(tf.constant([bytes([value]) for value in range(256)]), flags)
    before, behind = tf.strings.substr(contents, 0, 20), tf.strings.substr(contents, 21, _ALL)
    return tf.cond(
        animated, lambda: tf.strings.join([before, byte, behind]), lambda: tf.identity(contents)
    )


def _bmp(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads Windows bitmaps of 24 and 32 bits, and of 8 with a plain grey palette.

    TensorFlow reads palette indices as greys, and ignores compression and bit masks.
    """
    offset, header_size, width, height = tf.unstack(_header(contents, 10, tf.int32, 4))
    bits = tf.cast(_header(contents, 28, tf.uint16, 1)[0], tf.int32)
    compression = _header(contents, 30, tf.int32, 1)[0]
    masks = tf.reduce_all(_header(contents, 54, tf.int32, 3) == [0xFF0000, 0xFF00, 0xFF])
    plain = (compression == 0) | ((compression == 3) & (bits == 32) & masks)
    grey = (bits == 8) & _has_grey_palette(contents, header_size)
    stride = (tf.cast(width, tf.int64) * tf.cast(bits, tf.int64) + 31) // 32 * 4
    end = tf.cast(offset, tf.int64) + stride * tf.abs(tf.cast(height, tf.int64))
    checks = [
        require((header_size >= 40) & (width > 0) & (offset > 0), "BMP of an old or broken kind"),
        require((bits == 24) | (bits == 32) | (bits == 8), "BMP of 1, 4 or 16 bits a pixel"),
        require(plain, "compressed BMP, which TensorFlow cannot decode"),
        require(grey | (bits != 8), "palette BMP, which TensorFlow decodes to wrong colours"),
        require_size(tf.abs(tf.cast(height, tf.int64)), width),
        require(end <= tf.cast(tf.strings.length(contents), tf.int64), "truncated BMP"),
    ]
    with tf.control_dependencies(_operations(*checks)):
        # TensorFlow refuses the few bytes that some programs write behind the pixels.
        pixels = tf.io.decode_bmp(tf.strings.substr(contents, 0, tf.cast(end, tf.int32)))
    return _three_channels(pixels), tf.constant(1)


def _has_grey_palette(contents: tf.Tensor, header_size: tf.Tensor) -> tf.Tensor:
    at = tf.clip_by_value(header_size, 0, 1 << 10) + 14
    palette = tf.reshape(_header(contents, at, tf.uint8, 1024), [256, 4])[:, :3]
    return tf.reduce_all(palette == tf.cast(tf.range(256), tf.uint8)[:, None])


def _three_channels(pixels: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [h, w, 3] of uint8 [h, w, 1, 3 or 4]: repeats greys, drops alpha."""
    grey = tf.shape(pixels)[2] == 1
    return tf.cond(grey, lambda: tf.repeat(pixels, 3, axis=2), lambda: pixels[:, :, :3])


def _first_frame(contents: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.io.decode_image(contents, channels, expand_animations=False)


def _header(
    contents: tf.Tensor,
    at: int | tf.Tensor,
    kind: tf.DType,
    count: int,
    little_endian: bool = True,
) -> tf.Tensor:
    """Reads `count` numbers of that kind from byte `at` on, zeros where the file is too short."""
    wanted = count * kind.size
    at = tf.minimum(at, tf.strings.length(contents))
    text = tf.strings.join([tf.strings.substr(contents, at, wanted), b"\0" * wanted])
    text = tf.strings.substr(text, 0, wanted)
    return tf.ensure_shape(tf.io.decode_raw(text, kind, little_endian), [count])


def _little(bytes_: tf.Tensor) -> tf.Tensor:
    places = [256**power for power in range(bytes_.shape[0])]
    return tf.reduce_sum(bytes_ * tf.constant(places, tf.int32))


def _operations(*checks: tf.Operation | None) -> list[tf.Operation]:
    """Returns the operations of checks; an eager one has run already and is None."""
    return [check for check in checks if check is not None]


OTHERS = {
    "PNG": ImageFormat(b"\x89PNG\r\n\x1a\n", 0, _png),
    "BMP": ImageFormat(b"BM", 0, _bmp),
    "GIF": ImageFormat(b"GIF8", 0, _gif),
    "WebP": ImageFormat(b"WEBP", 8, _webp),
}
