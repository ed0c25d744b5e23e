"""Names what a file is that is no supported image, by its first bytes."""

from __future__ import annotations

import tensorflow as tf

NOT_AN_IMAGE = "not an image (JPEG, PNG, BMP, GIF, WebP)"
EMPTY = "empty file"
_CONVERT = "which is not supported; save it as JPEG or PNG"
_HTML = "web page, not an image; download the image itself"
_OFFICE = "Office document, not an image; save its images as JPEG or PNG"
_BYTES = 64  # of a file that are looked at

# Where the mark begins, the mark, what the file is. Text is compared in lower case, without
# leading white space.
_MARKS = (
    *((4, b"ftyp" + brand, f"HEIC, {_CONVERT}") for brand in (b"he", b"mif1", b"msf1")),
    (4, b"ftypavi", f"AVIF, {_CONVERT}"),
    (4, b"ftyp", "video, not an image; save frames of it as JPEG or PNG"),
    (4, b"jP  ", f"JPEG 2000, {_CONVERT}"),
    (4, b"JXL ", f"JPEG XL, {_CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL, {_CONVERT}"),
    *((0, mark, f"TIFF, {_CONVERT}") for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (0, b"8BPS", f"Photoshop file, {_CONVERT}"),
    (0, b"\0\0\1\0", f"icon, {_CONVERT}"),
    (0, b"%PDF-", f"PDF, {_CONVERT}"),
    (0, b"\xd0\xcf\x11\xe0", _OFFICE),
    (30, b"[Content_Types]", _OFFICE),
    (30, b"mimetypeapplication/vnd.oasis", _OFFICE),
    (0, b"PK\3\4", "ZIP archive, not an image; unpack it"),
)
_TEXTS = (
    (b"version https://git-lfs", "Git LFS pointer, not the image; fetch it: git lfs pull"),
    (b"<svg", f"SVG, {_CONVERT}"),
    (b"<!doctype html", _HTML),
    (b"<html", _HTML),
)
_REASONS = (*(reason for *_, reason in _MARKS), *(reason for _, reason in _TEXTS), NOT_AN_IMAGE)
REASONS = frozenset(_REASONS)  # all but that of an empty file


def describe(contents: tf.Tensor) -> tf.Tensor:
    """Returns the reason to refuse a file of no supported format, string scalar."""
    head = tf.strings.join([tf.strings.substr(contents, 0, _BYTES), b"\0" * _BYTES])
    text = tf.strings.join([tf.strings.lower(tf.strings.strip(head)), b"\0" * _BYTES])
    matches = [tf.strings.substr(head, at, len(mark)) == mark for at, mark, _ in _MARKS]
    matches += [tf.strings.substr(text, 0, len(mark)) == mark for mark, _ in _TEXTS]
    reason = tf.constant(_REASONS)[tf.argmax(tf.stack([*matches, tf.constant(True)]))]
    return tf.where(tf.strings.length(contents) == 0, EMPTY, reason)
