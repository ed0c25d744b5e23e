"""What the first bytes of an image say of it."""

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import headers
from pipelines.sources.examples import from_columns
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import COLOUR, RGB, saved


def row(path, **columns):
    """The header of one image: format, height, width, frames."""
    examples = from_columns([str(path)], [0], ("a", "b"), keys=["one"], **columns)
    return headers.read_headers(examples, np.array([0])).tolist()[0]


MORE = {"save_all": True, "append_images": [COLOUR.rotate(90), COLOUR.rotate(180)]}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "MPO"])
def test_header_has_format_and_size(kind, tmp_path):
    image = COLOUR.quantize(32) if kind == "GIF" else COLOUR
    (tmp_path / "one").write_bytes(saved(image, kind))
    format = {"MPO": b"JPEG"}.get(kind, kind.encode())  # of a single image
    assert row(tmp_path / "one") == (format, *RGB.shape[:2], 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_header_has_number_of_frames_and_pages(kind, tmp_path):
    (tmp_path / "many").write_bytes(saved(COLOUR, kind, **MORE))
    assert row(tmp_path / "many")[3] == 3


def test_header_inside_a_record_file_is_read(tmp_path):
    contents = saved(COLOUR, "PNG")
    (tmp_path / "records").write_bytes(b"before" + contents + b"behind")
    assert row(tmp_path / "records", offsets=[6], lengths=[len(contents)])[0] == b"PNG"


def test_header_of_a_bomb_is_read_without_decoding(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bad_images.png_bomb(None))
    limit = Image.MAX_IMAGE_PIXELS
    assert row(tmp_path / "bomb.png")[1:3] == (20_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_headers_that_no_reader_writes_are_invalid(tmp_path):
    (tmp_path / "one.png").write_bytes(saved(COLOUR, "PNG"))
    paths = [str(tmp_path / name) for name in ("none", "one.png")]
    examples = from_columns(paths, [0, 0], ("a", "b"), keys=paths)
    rows = headers.read_headers(examples, np.array([1, 0]))
    assert rows.tolist() == [(b"PNG", *RGB.shape[:2], 1), (b"?", 0, 0, 0)]
    assert headers.are_valid(rows)
    rows["format"][1] = b"\x1b[2J"
    assert not headers.are_valid(rows)


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 25_000, 1_000_003])
def test_sample_is_all_or_spread_evenly(count):
    chosen = np.flatnonzero(headers.sample_mask(count))
    assert len(chosen) == count if count <= 10_000 else 4_900 < len(chosen) <= 10_000
    assert len(set(np.diff(chosen).tolist())) <= 1


@pytest.mark.parametrize(
    "contents", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_header_of_unknown_format_is_blank(contents, tmp_path):
    (tmp_path / "file").write_bytes(contents)
    assert row(tmp_path / "file") == (b"?", 0, 0, 0)


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
def test_name_of_another_format_is_told(name, kind, want):
    assert headers.misnamed(name, kind) == want
