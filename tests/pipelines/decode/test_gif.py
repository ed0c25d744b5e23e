import io
import resource
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.decode import decode, gif
from tests.pipelines.encoded_images import COLOUR, GREY, saved

MOVING = saved(
    COLOUR.quantize(64),
    "GIF",
    save_all=True,
    append_images=[GREY.convert("P"), COLOUR.rotate(180).quantize(16)],
    comment=b"about it " * 60,
)


def cut(contents: bytes) -> tuple[bytes, list[int]]:
    found, frame = tf.function(gif.first_frame)(tf.constant(contents))
    return found.numpy(), frame.numpy().tolist()


def test_first_frame_is_unchanged_and_others_are_cut_off():
    contents, frame = cut(MOVING)
    assert frame == [0, 0, *COLOUR.size]
    assert MOVING.startswith(contents[:-1])
    with Image.open(io.BytesIO(contents)) as alone, Image.open(io.BytesIO(MOVING)) as whole:
        assert (alone.n_frames, whole.n_frames) == (1, 3)
        np.testing.assert_array_equal(alone.convert("RGB"), whole.convert("RGB"))


def test_file_of_one_frame_is_unchanged():
    contents = saved(GREY, "GIF")
    assert cut(contents)[0] == contents


@pytest.mark.parametrize("start", [6, 10, 13, *range(75, 900, 75), 810, len(MOVING) - 1])
def test_truncated_or_damaged_file_ends(start):
    assert len(cut(MOVING[:start])[0]) <= start + 1
    noise = np.random.default_rng(start).bytes(200)
    cut(MOVING[:start] + noise + MOVING[start + 200 :])


def repeated(count: int, side: int, screen: int) -> bytes:
    """A black frame of side x side, `count` times, on a screen of another size."""
    one = saved(Image.new("P", (side, side)), "GIF")
    at = one.index(b"\x2c\0\0\0\0" + struct.pack("<HH", side, side))
    return one[:6] + struct.pack("<HH", screen, screen) + one[10:at] + one[at:-1] * count + b";"


def test_many_frames_need_no_more_memory_than_one():
    contents = repeated(100, 3000, 3000)
    assert len(contents) < 1_000_000
    decode.decode(repeated(1, 3000, 3000), 24, 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode.decode(contents, 24, 24).shape == (24, 24, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_frame_larger_than_the_screen_is_refused_before_allocation():
    contents = repeated(1, 20_000, 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode.decode(contents, 24, 24)
    assert "first frame does not fill it" in decode.reason(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
