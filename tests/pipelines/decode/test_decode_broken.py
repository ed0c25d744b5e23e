from __future__ import annotations

import resource
import struct

import numpy as np
import pytest
import tensorflow as tf

from pipelines.decode import bounds
from pipelines.decode.decode import decode, reason
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import COLOUR, GREY, bgr_rows, bmp, saved

NOT_AN_IMAGE = "not an image (JPEG, PNG, BMP, GIF, WebP)"
HTML = "web page, not an image; download the image itself"
LFS = "Git LFS pointer, not the image; fetch it: git lfs pull"
OFFICE = "Office document, not an image; save its images as JPEG or PNG"
TIFF = "TIFF, which is not supported; save it as JPEG or PNG"
FILES = {
    "JPEG": saved(COLOUR, "JPEG"),
    "PNG": saved(COLOUR, "PNG"),
    "BMP": saved(COLOUR, "BMP"),
    "GIF": saved(COLOUR.quantize(64), "GIF"),
    "WebP": saved(COLOUR, "WEBP"),
}
PALETTE = b"".join(bytes([level, 255 - level, 9, 0]) for level in range(256))
GREY_ROWS = [row.tobytes() for row in np.asarray(GREY)]


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def decoded(contents):
    return decode(contents, 16, 16, "squash")


def refusal(contents: bytes) -> str:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decoded(contents)
    return reason(caught.value)


PALETTE_BMP = "palette BMP, which TensorFlow decodes to wrong colours"
COMPRESSED_BMP = "compressed BMP, which TensorFlow cannot decode"
CORE_BMP = b"BM" + struct.pack("<IHHIIHHHH", 30, 0, 0, 26, 12, 1, 1, 1, 24) + bytes(4)


@pytest.mark.parametrize(
    ("contents", "want"),
    [
        (b"", "empty file"),
        (b"B", NOT_AN_IMAGE),
        (b"hello, world\n", NOT_AN_IMAGE),
        (b"<!DOCTYPE html><html></html>", HTML),
        (b"\r\n  <HTML>", HTML),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", LFS),
        (b"\0\0\0\x18ftypheic\0\0\0\0", TIFF.replace("TIFF", "HEIC")),
        (b"\0\0\0\x20ftypavif\0\0\0\0", TIFF.replace("TIFF", "AVIF")),
        (saved(COLOUR, "TIFF"), TIFF),
        (b"MM\0*\0\0\0\x08", TIFF),
        (b"PK\3\4\x14\0\6\0\x08\0" + bytes(20) + b"[Content_Types].xml", OFFICE),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OFFICE),
        (b"\0" * 500, NOT_AN_IMAGE),
        (b"RIFF\0\0\0\0WAVE", NOT_AN_IMAGE),
        (b"\x89PNX" + FILES["PNG"][4:], NOT_AN_IMAGE),
        (b"\xff\xd8\xff", "truncated or damaged JPEG"),
        (saved(COLOUR.quantize(64), "BMP"), PALETTE_BMP),
        (bmp(8, GREY_ROWS, palette=PALETTE), PALETTE_BMP),
        (saved(GREY.convert("1"), "BMP"), "BMP of 1, 4 or 16 bits a pixel"),
        (bmp(16, bgr_rows()), "BMP of 1, 4 or 16 bits a pixel"),
        (bmp(8, GREY_ROWS, compression=1), COMPRESSED_BMP),
        (bmp(32, bgr_rows(1), compression=3, extra=bytes(12)), COMPRESSED_BMP),
        (CORE_BMP, "BMP of an old or broken kind"),
    ],
)
def test_unsupported_file_is_refused_with_reason(contents, want):
    assert refusal(contents) == want


@pytest.mark.parametrize("kind", FILES)
def test_truncated_file_is_refused_with_its_format(kind):
    contents = FILES[kind]
    for length in (16, 30, len(contents) // 4, len(contents) // 2, len(contents) * 9 // 10):
        line = refusal(contents[:length])
        assert kind in line, length
        assert len(line) < 60, length


def test_reason_is_the_same_in_a_dataset():
    dataset = tf.data.Dataset.from_tensors(b"text").map(decoded)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(dataset)
    assert reason(caught.value) == NOT_AN_IMAGE
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(b"text", 4, 4, "squash")
    assert reason(caught.value) == NOT_AN_IMAGE


def test_gif_that_does_not_fill_its_screen_is_refused():
    larger = FILES["GIF"][:6] + struct.pack("<HH", 100, 80) + FILES["GIF"][10:]
    assert "first frame does not fill it" in refusal(larger)


@pytest.mark.parametrize("head", [b"\xff\x0a", b"XXXX"], ids=["a JPEG XL", "nothing"])
def test_file_with_only_the_webp_magic_is_refused(head):
    """TensorFlow would look for other formats in it, of whose size nothing is known here."""
    assert refusal((head + bytes(8))[:8] + FILES["WebP"][8:]) == "WebP of an unknown kind"


def test_webp_without_chunk_name_is_refused():
    """libwebp reads it, and its size is elsewhere."""
    lossless = saved(COLOUR, "WEBP", lossless=True)
    assert refusal(lossless[:12] + lossless[20:]) == "WebP of an unknown kind"


def patched(contents: bytes, at: int, new: bytes) -> bytes:
    return contents[:at] + new + contents[at + len(new) :]


def bombs() -> dict[str, bytes]:
    lossless = saved(COLOUR, "WEBP", lossless=True)
    animated = saved(COLOUR, "WEBP", save_all=True, append_images=[GREY.convert("RGB")])
    random = np.random.default_rng(0)
    claims = [name for name in bad_images.KINDS if name.endswith("claims_much")]
    return {name: bad_images.KINDS[name](random) for name in claims} | {
        "bmp upside down": patched(FILES["BMP"], 18, struct.pack("<ii", 2**31 - 1, -(2**31))),
        "webp lossy": patched(FILES["WebP"], 26, b"\xff\x3f\xff\x3f"),
        "webp lossless": patched(lossless, 21, b"\xff\xff\xff\x0f"),
        "webp animated": patched(animated, 24, b"\xff\x3f\0\xff\x3f\0"),
    }


@pytest.mark.parametrize("name", bombs())
def test_header_that_claims_too_many_pixels_allocates_nothing(name):
    contents = bombs()[name]
    decoded(FILES["JPEG"])  # what tracing needs is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = refusal(contents)
    assert line in (bounds.TOO_LARGE, "BMP of an old or broken kind")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_reason_of_another_error_is_its_first_line():
    error = tf.errors.NotFoundError(
        None, None, "{{function_node f}} no such file\n\t [[{{node x}}]]"
    )
    assert reason(error) == "no such file"
    assert reason(OSError("disk is gone")) == "disk is gone"
