"""What the first bytes of an image say of it."""

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import headers
from pipelines.sources.examples import from_columns
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import COLOUR, RGB, saved


def one(path, **columns):
    return from_columns([str(path)], [0], ("a", "b"), keys=["one"], **columns)


MORE = {"save_all": True, "append_images": [COLOUR.rotate(90), COLOUR.rotate(180)]}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "MPO"])
def test_format_size_and_frames(kind, tmp_path):
    image = COLOUR.quantize(32) if kind == "GIF" else COLOUR
    (tmp_path / "one").write_bytes(saved(image, kind))
    found = headers.read_header(one(tmp_path / "one"), 0)
    assert found.format == {"MPO": "JPEG"}.get(kind, kind)  # of a single image
    assert (found.height, found.width, found.frames) == (*RGB.shape[:2], 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_frames_and_pages_are_counted(kind, tmp_path):
    (tmp_path / "many").write_bytes(saved(COLOUR, kind, **MORE))
    assert headers.read_header(one(tmp_path / "many"), 0).frames == 3


def test_a_image_inside_a_record_file(tmp_path):
    contents = saved(COLOUR, "PNG")
    (tmp_path / "records").write_bytes(b"before" + contents + b"behind")
    examples = one(tmp_path / "records", offsets=[6], lengths=[len(contents)])
    assert headers.read_header(examples, 0).format == "PNG"


def test_what_claims_to_be_huge_is_told_and_not_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bad_images.png_bomb(None))
    limit = Image.MAX_IMAGE_PIXELS
    assert headers.read_header(one(tmp_path / "bomb.png"), 0)[1:3] == (20_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_many_are_rows_and_what_is_none_is_said_to_be(tmp_path):
    (tmp_path / "one.png").write_bytes(saved(COLOUR, "PNG"))
    paths = [str(tmp_path / name) for name in ("none", "one.png")]
    examples = from_columns(paths, [0, 0], ("a", "b"), keys=paths)
    rows = headers.read_headers(examples, np.array([1, 0]))
    assert rows.tolist() == [(b"PNG", *RGB.shape[:2], 1), (b"?", 0, 0, 0)]
    assert headers.are_valid(rows)
    rows["format"][1] = b"\x1b[2J"
    assert not headers.are_valid(rows)


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 25_000, 1_000_003])
def test_a_sample_is_all_or_spread_evenly(count):
    chosen = np.flatnonzero(headers.sample_mask(count))
    assert len(chosen) == count if count <= 10_000 else 4_900 < len(chosen) <= 10_000
    assert len(set(np.diff(chosen).tolist())) <= 1


@pytest.mark.parametrize(
    "contents", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_no_known_image_has_no_header(contents, tmp_path):
    (tmp_path / "file").write_bytes(contents)
    assert headers.read_header(one(tmp_path / "file"), 0) is None
    assert headers.read_header(one(tmp_path / "gone"), 0) is None


@pytest.mark.parametrize(
    ("name", "kind", "want"),
    [
        ("a.jpg", "JPEG", None),
        ("a.JPEG", "MPO", None),
        ("a.png", "JPEG", "named .png, contains JPEG"),
        ("a.gif", "WEBP", "named .gif, contains WEBP"),
        ("a", "PNG", None),
        ("v1.2", "PNG", None),
    ],
)
def test_a_name_that_says_another_format(name, kind, want):
    assert headers.misnamed(name, kind) == want
