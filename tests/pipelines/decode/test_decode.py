"""`pipelines.decode.decode` against Pillow: every format, orientation and way of resizing.

Tolerances, in grey levels: lossless formats exact; JPEG and WebP 1 (the same libraries in other
versions); resizing 1 (Pillow rounds between its two passes, `decode` once at the end).
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from engine.core.errors import UserError
from pipelines.decode.decode import decode
from tests.pipelines import encoded_images, every_format
from tests.pipelines.encoded_images import COLOUR, GREY, RGB, bgr_rows, bmp, opened, saved, tiff

HEIGHT, WIDTH = RGB.shape[:2]
MASKS = (0xFF0000).to_bytes(4, "little") + (0xFF00).to_bytes(4, "little") + b"\xff\0\0\0"


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def unresized(contents):
    return decode(contents, HEIGHT, WIDTH, "squash")


def animated(kind: str, image: Image.Image, **options) -> bytes:
    return saved(image, kind, save_all=True, append_images=[GREY.convert(image.mode)], **options)


LOSSY = ("jpg", "lossy.webp", "alpha.webp")
FORMATS = {
    name: make(COLOUR)
    for name, make in every_format.KINDS.items()
    if not name.startswith(("turned", "upside_down", "mirrored", "16_bits"))
} | {
    "comment_and_tables.gif": saved(
        COLOUR.quantize(64),
        "GIF",
        save_all=True,
        append_images=[COLOUR.rotate(180).quantize(16)],
        comment=b"x" * 600,
        loop=0,
        duration=40,
    ),
    "grey.gif": saved(GREY, "GIF"),
    "exact.webp": saved(encoded_images.with_alpha("RGBA"), "WEBP", lossless=True, exact=True),
    "animated.webp": animated("WEBP", COLOUR, lossless=True),
    "animated_lossy.webp": animated("WEBP", COLOUR),
    "top_down.bmp": bmp(24, bgr_rows(), top_down=True),
    "bytes_behind.bmp": saved(COLOUR, "BMP") + b"\0\0",
    "32_bits.bmp": bmp(32, bgr_rows(1)),
    "32_bits_with_masks.bmp": bmp(32, bgr_rows(1), compression=3, extra=MASKS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_decodes_as_by_pillow(name):
    contents, tolerance = FORMATS[name], int(name.endswith(LOSSY))
    tolerance += name == "cmyk.jpg"  # black is multiplied, and rounded
    result = unresized(contents).numpy()
    assert result.shape == (HEIGHT, WIDTH, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - opened(contents)).max() <= tolerance


def test_16_bit_levels_keep_their_upper_byte():
    levels = np.multiply.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint16) * 34
    grey = saved(Image.fromarray(levels), "PNG")
    assert (unresized(grey).numpy() == (levels >> 8)[:, :, None]).all()
    rgb = np.stack([levels, levels[::-1], levels[:, ::-1]], -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    assert (unresized(encoded_images.png(WIDTH, HEIGHT, 16, 2, rows)).numpy() == rgb >> 8).all()


def exif_files(exif: bytes) -> dict[str, bytes]:
    """The same block in each container; the JPEG has further segments in front."""
    jpeg = saved(COLOUR, "JPEG", exif=exif, comment=b"before or behind", quality=90)
    return {
        "jpeg": jpeg,
        "png": saved(COLOUR, "PNG", exif=exif),
        "webp": saved(COLOUR, "WEBP", exif=exif, lossless=True),
    }


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, order):
    exif = b"Exif\0\0" + tiff(order, orientation, before=orientation % 3)
    for kind, contents in exif_files(exif).items():
        want = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
        result = decode(contents, *want.shape[:2], "squash").numpy()
        assert np.abs(result - want.astype(int)).max() <= (kind == "jpeg"), kind


def test_orientation_is_found_behind_other_segments():
    contents = saved(COLOUR, "JPEG", exif=b"Exif\0\0" + tiff(">", 3))
    comment = b"\xff\xfe\x00\x06abcd"
    icc = b"\xff\xe2" + (3002).to_bytes(2, "big") + bytes(3000)
    shifted = contents[:2] + comment + icc + contents[2:]
    assert (unresized(shifted).numpy() == unresized(contents).numpy()).all()
    plain = unresized(saved(COLOUR, "JPEG")).numpy()
    assert (unresized(shifted).numpy() == plain[::-1, ::-1]).all()


@pytest.mark.parametrize(("count", "found"), [(500, True), (2000, False)])
def test_orientation_is_searched_in_a_limited_number_of_chunks(count, found):
    contents = saved(COLOUR, "PNG", exif=b"Exif\0\0" + tiff("<", 3))
    shifted = contents[:33] + encoded_images.chunk(b"prVt", b"") * count + contents[33:]
    plain = unresized(saved(COLOUR, "PNG")).numpy()
    assert (unresized(shifted).numpy() == (plain[::-1, ::-1] if found else plain)).all()


DAMAGED_EXIF = {
    "empty": b"Exif\0\0",
    "no directory": b"Exif\0\0MM\0*",
    "far directory": b"Exif\0\0MM\0*\x7f\xff\xff\xff",
    "negative directory": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "too many entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(40),
    "orientation 0": b"Exif\0\0" + tiff("<", 0),
    "orientation 9": b"Exif\0\0" + tiff(">", 9),
    "no TIFF": b"Exif\0\0" + b"XX" + tiff(">", 6)[2:],
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", DAMAGED_EXIF)
def test_damaged_exif_is_ignored(name):
    for kind, contents in exif_files(DAMAGED_EXIF[name]).items():
        result = decode(contents, HEIGHT, WIDTH, "squash").numpy()
        difference = np.abs(result - opened(contents)).max()
        assert difference <= (kind == "jpeg"), kind


SIZES = [(1, 1), (1, 60), (7, 5), (24, 31), (37, 53), (36, 54), (61, 43), (99, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_squash_agrees_with_pillow_bilinear(size):
    want = COLOUR.resize(size[::-1], Image.Resampling.BILINEAR)
    check_resized("squash", size, want)


@pytest.mark.parametrize("size", SIZES)
def test_crop_agrees_with_pillow_fit(size):
    want = ImageOps.fit(COLOUR, size[::-1], Image.Resampling.BILINEAR)
    check_resized("crop", size, want)


@pytest.mark.parametrize("size", SIZES)
def test_pad_adds_equal_borders(size):
    height, width = size
    scale = min(height / HEIGHT, width / WIDTH)
    top = min(int((height - HEIGHT * scale) / 2 + 0.5), (height - 1) // 2)
    left = min(int((width - WIDTH * scale) / 2 + 0.5), (width - 1) // 2)
    want = Image.new("RGB", (width, height))
    inner = (width - 2 * left, height - 2 * top)
    want.paste(COLOUR.resize(inner, Image.Resampling.BILINEAR), (left, top))
    check_resized("pad", size, want)


def check_resized(resize: str, size: tuple[int, int], want: Image.Image) -> None:
    result = decode(saved(COLOUR, "PNG"), *size, resize).numpy()
    assert result.shape == (*size, 3)
    assert np.abs(result - np.asarray(want).astype(int)).max() <= 1


@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_and_resizing_commute(resize, orientation):
    exif = b"Exif\0\0" + tiff("<", orientation)
    contents = saved(COLOUR, "PNG", exif=exif)
    upright = saved(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))), "PNG")
    turned = decode(contents, 30, 23, resize).numpy().astype(int)
    assert np.abs(turned - decode(upright, 30, 23, resize).numpy()).max() <= 1


@pytest.mark.parametrize("side", [1600, 801, 803, 403])
def test_reduced_decoding_is_close_to_full_decoding(side):
    """A smooth image, so that only a shift or a wrong scale could show; to 3 levels."""
    y, x = np.mgrid[0:side, 0 : side + 5] / side
    waves = 128 + 100 * np.stack([np.sin(7 * x), np.cos(5 * y), np.sin(3 * x + 4 * y)], -1)
    contents = saved(Image.fromarray(waves.astype(np.uint8)), "JPEG", quality=95, subsampling=0)
    result = decode(contents, 100, 100, "squash").numpy()
    full = opened(contents).astype(np.float64)
    for axis in (0, 1):
        full = encoded_images.triangle(full, axis, 100 / full.shape[axis], 0.0, 100)
    assert np.abs(result - full).max() <= 3
    assert np.abs(result - full).mean() <= 0.6


def test_photographs_decode_as_by_pillow(cats_dogs):
    """Without reduction to 1 level; a reduced one differs by less than one on average."""
    for path in sorted(cats_dogs.rglob("*.jpg"))[:6]:
        contents = path.read_bytes()
        for side, mean in ((160, 0.5), (40, 1.0)):
            want = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
            result = decode(contents, side, side, "squash").numpy()
            assert np.abs(result - np.asarray(want).astype(int)).mean() <= mean, (path, side)


def test_cmyk_jpeg_without_the_mark_of_adobe_decodes_as_by_pillow():
    whole = saved(COLOUR.convert("CMYK"), "JPEG")
    at = whole.index(b"\xff\xee")
    bare = whole[:at] + whole[at + 2 + whole[at + 3] :]
    assert b"Adobe" not in bare
    assert np.abs(unresized(bare).numpy() - opened(bare)).max() <= 1


SOME = ("baseline.jpg", "cmyk.jpg", "plain.png", "animated.gif", "alpha.webp", "grey.bmp")


@pytest.mark.parametrize(
    "kinds", [SOME, pytest.param(sorted({*FORMATS} - {*SOME}), marks=pytest.mark.slow)]
)
def test_graph_and_eager_decode_to_the_same_bits(kinds):
    files = [FORMATS[kind] for kind in kinds]
    files.append(saved(COLOUR, "JPEG", exif=b"Exif\0\0" + tiff("<", 6)))
    for resize in ("squash", "crop", "pad"):
        dataset = tf.data.Dataset.from_tensor_slices(files)
        dataset = dataset.map(lambda text, how=resize: decode(text, 24, 31, how))
        assert dataset.element_spec == tf.TensorSpec([24, 31, 3], tf.uint8)
        for contents, image in zip(files, dataset, strict=True):
            assert (decode(contents, 24, 31, resize).numpy() == image.numpy()).all()


def test_unknown_resize_is_refused():
    with pytest.raises(UserError, match=r"stretch.*squash, crop, pad"):
        decode(b"", 8, 8, "stretch")
