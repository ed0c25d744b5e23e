"""Small files that would take minutes or gigabytes: refused by headers and markers."""

import threading
import time

import pytest
import tensorflow as tf

from pipelines.decode import bounds
from pipelines.decode.decode import decode, reason
from tests.pipelines.bombs import (
    SIDE,
    bmp_of_one_row,
    gif_of_blocks,
    one_component,
    progressive,
    with_chunks,
)
from tests.pipelines.encoded_images import COLOUR, png, saved


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def decoded(contents):
    return decode(contents, 16, 16)


BOMBS = {
    "20 scans of the largest": (progressive(20), bounds.TOO_MANY_SCANS),
    "20 refining scans": (progressive(20, SIDE, b"\x01\x3f\x10"), bounds.TOO_MANY_SCANS),
    "a million scans of a block": (progressive(10**6, 8), bounds.TOO_MANY_SCANS),
    "two million scans of a component": (one_component(2**21), bounds.TOO_MANY_SCANS),
    "17 texts": (with_chunks(17), bounds.TOO_MANY_TEXTS),
    "17 international texts": (with_chunks(17, b"iTXt"), bounds.TOO_MANY_TEXTS),
    "a row of a million pixels": (png(10**6, 1, 8, 2, bytes(3 * 10**6 + 1)), bounds.TOO_LARGE),
    "a bitmap of one row": (bmp_of_one_row(10**5), bounds.TOO_LARGE),
    "a million blocks of a byte": (gif_of_blocks(2 * 10**6, 64), "truncated or damaged GIF"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_before_decoding(name):
    contents, wanted = BOMBS[name]
    decoded(saved(COLOUR, "JPEG"))  # compiles
    before = time.process_time()
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decoded(contents)
    assert reason(caught.value) == wanted
    assert time.process_time() - before < 1


GOOD = {
    "100 scans of a small image": progressive(100, 64),
    "a progressive photograph": saved(COLOUR.resize((5000, 7000)), "JPEG", progressive=True),
    "marks behind the only scan": saved(COLOUR, "JPEG") + b"\xff\xda" * 2**20,
    "16 texts": with_chunks(16),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_image_within_the_bounds_is_decoded(name):
    assert decoded(GOOD[name]).shape == (16, 16, 3)


def test_large_images_are_decoded_one_at_a_time_even_after_an_error():
    lock, at_work = threading.Lock(), []

    def work(number: int) -> int:
        with lock:
            at_work.append(number)
            together = sum(1 for one in at_work if one % 2)
        time.sleep(0.01)
        with lock:
            at_work.remove(number)
        if number == 5:
            raise ValueError
        return together

    def in_turn(number: tf.Tensor) -> tf.Tensor:
        def decode() -> tf.Tensor:
            return tf.ensure_shape(tf.numpy_function(work, [number], tf.int64), [])

        return bounds.in_turn(number % 2 == 1, decode, alone=True)

    dataset = tf.data.Dataset.range(20).map(in_turn, 8).ignore_errors()
    counts = list(dataset.as_numpy_iterator())
    assert len(counts) == 19
    assert max(counts) == 1
