"""EXIF orientation in graph operations: read from JPEG, PNG and WebP, and undone.

Formats: Exif 2.32 (JPEG APP1 and the orientation tag), TIFF 6.0 section 2 (byte order and
directory), PNG third edition 11.3.4.5 (eXIf), WebP container specification (VP8X, EXIF). Damaged
or missing metadata mean orientation 1: an image is never refused for them.
"""

from __future__ import annotations

import tensorflow as tf

from pipelines.decode.file_bytes import TEXT, integers, outlined, substring

ORIENTATION_TAG = 0x0112
SHORT = 3  # TIFF's name for an unsigned number of two bytes
EXIF_MARK = b"Exif\0\0"
MAX_CHUNKS = 1000  # skipped before the wanted one: a file of nothing else would take minutes
TIFF_LIMIT = 1 << 16  # bytes: the size of one JPEG segment
NUMBER = tf.TensorSpec([], tf.int32)
PIXELS = tf.TensorSpec([None, None, 3], tf.uint8)


def in_jpeg(contents: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a JPEG file (string scalar), int32 scalar 1…8.

    The segments before the first table are searched. The usual file without EXIF, a JFIF segment
    followed by the tables, is recognised by comparing two strings within 22 bytes, which every JPEG
    file with a complete header has.
    """
    start = tf.strings.substr(contents, [0, 20], [6, 2])
    plain = tf.reduce_all(start == [b"\xff\xd8\xff\xe0\x00\x10", b"\xff\xdb"])
    return tf.cond(plain, _no_orientation, lambda: _search_jpeg(contents))


@outlined(TEXT)
def _search_jpeg(contents: tf.Tensor) -> tf.Tensor:
    def length(bytes_: tf.Tensor) -> tf.Tensor:
        return bytes_[2] * 256 + bytes_[3]

    def is_exif(bytes_: tf.Tensor) -> tf.Tensor:
        return (bytes_[1] == 0xE1) & tf.reduce_all(bytes_[4:] == [*EXIF_MARK])

    def goes_on(at: tf.Tensor, bytes_: tf.Tensor) -> tf.Tensor:
        application = (bytes_[1] >= 0xE0) & (bytes_[1] <= 0xEF) | (bytes_[1] == 0xFE)
        return (bytes_[0] == 0xFF) & application & ~is_exif(bytes_)

    def step(at: tf.Tensor, bytes_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at += 2 + length(bytes_)
        return at, integers(contents, at, 10)

    start = tf.constant(2), integers(contents, 2, 10)
    at, bytes_ = tf.while_loop(goes_on, step, start, maximum_iterations=MAX_CHUNKS)
    tiff = substring(contents, at + 10, length(bytes_) - 8)
    return tf.cond(is_exif(bytes_), lambda: _in_tiff(tiff), _no_orientation)


def in_png(contents: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in a PNG file's eXIf chunk before the pixels, int32 scalar 1…8."""
    return _search_chunks(contents, png=True)


def in_webp(contents: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in a WebP file's EXIF chunk, int32 scalar 1…8.

    Only extended files with bit 3 of byte 20 have one.
    """
    flags = integers(contents, 20, 1)[0]
    extended = (substring(contents, 12, 4) == b"VP8X") & (flags // 8 % 2 == 1)
    return tf.cond(extended, lambda: _search_chunks(contents, png=False), _no_orientation)


def _search_chunks(contents: tf.Tensor, png: bool) -> tf.Tensor:
    """Returns the orientation in the chunk for EXIF of a PNG or WebP file."""
    wanted, last = (b"eXIf", b"IDAT") if png else (b"EXIF", b"")
    start, name_at, size_at = (33, 4, 0) if png else (12, 0, 4)

    def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """From the offset of a chunk to its name, size and successor."""
        size = integers(contents, at + size_at, 1, tf.int32, little_endian=not png)[0]
        rest = 4 if png else size % 2  # a checksum, or padding
        return substring(contents, at + name_at, 4), size, at + 8 + size + rest

    def goes_on(at: tf.Tensor, name: tf.Tensor, size: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        inside = (after > at) & (after <= tf.strings.length(contents))
        return inside & (name != wanted) & (name != last)

    def step(at: tf.Tensor, name: tf.Tensor, size: tf.Tensor, after: tf.Tensor) -> tuple:
        return after, *read(after)

    first = (start, *read(tf.constant(start)))
    at, name, size, _ = tf.while_loop(goes_on, step, first, maximum_iterations=MAX_CHUNKS)
    tiff = substring(contents, at + 8, tf.minimum(size, TIFF_LIMIT))
    marked = substring(tiff, 0, len(EXIF_MARK)) == EXIF_MARK  # some writers keep JPEG's prefix
    tiff = substring(tiff, tf.where(marked, len(EXIF_MARK), 0), TIFF_LIMIT)
    return tf.cond(name == wanted, lambda: _in_tiff(tiff), _no_orientation)


def _in_tiff(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in the first directory of a TIFF block, int32 scalar 1…8."""
    data = tf.cast(tf.io.decode_raw(tf.strings.join([tiff, b"\0" * 32]), tf.uint8), tf.int32)
    size = tf.size(data)
    little = tf.reduce_all(data[:4] == [0x49, 0x49, 42, 0])
    big = tf.reduce_all(data[:4] == [0x4D, 0x4D, 0, 42])

    def number(bytes_: tf.Tensor) -> tf.Tensor:
        """int32 [...] of bytes int32 [..., k]; numbers from 2^31 on are negative."""
        places = tf.constant([256**power for power in range(bytes_.shape[-1])])
        return tf.reduce_sum(tf.where(little, bytes_, tf.reverse(bytes_, [-1])) * places, -1)

    first = tf.clip_by_value(number(tf.reshape(data[4:8], [4])), 0, size - 14)
    count = number(tf.reshape(data[first : first + 2], [2]))
    count = tf.minimum(count, (size - first - 2) // 12)
    entries = tf.reshape(data[first + 2 : first + 2 + 12 * count], [count, 12])
    match = (number(entries[:, :2]) == ORIENTATION_TAG) & (number(entries[:, 2:4]) == SHORT)
    value = tf.reduce_max(tf.where(match, number(entries[:, 8:10]), 0))
    return tf.where((little | big) & (value >= 1) & (value <= 8), value, 1)


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Applies the orientation.

    Args:
      pixels: uint8 [h, w, 3], as stored.
      orientation: int32 scalar, 1…8, as in Exif 2.32, tag 0x0112.

    Returns:
      uint8 [h, w, 3], or [w, h, 3] for orientations 5…8.
    """

    return tf.cond(orientation == 1, lambda: pixels, lambda: _turned(pixels, orientation))


@outlined(PIXELS, NUMBER)
def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    swapped = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    down = tf.reduce_any(orientation == [3, 4, 7, 8])
    right = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.raw_ops.Reverse(tensor=swapped, dims=tf.stack([down, right, False]))


def stored_size(target: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns the height and width, int32 [2], that are `target` after `upright`."""
    return tf.where(orientation >= 5, target[::-1], target)


def _no_orientation() -> tf.Tensor:
    return tf.constant(1)
