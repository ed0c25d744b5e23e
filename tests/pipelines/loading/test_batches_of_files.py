"""Batches and the files they come from: inside others, of any name, broken, gone, and closed."""

import gc
import os
import time

import numpy as np
import pytest

from engine.core.errors import UserError
from tests.pipelines.feeds import (
    COUNT,
    check_pixels,
    colour,
    columns,
    encoded_image,
    feed_of,
    index,
    trained,
    unstacked,
)


def test_images_inside_a_bigger_file_are_read_at_their_place(tmp_path):
    contents, offsets = b"", []
    for number in range(COUNT):
        contents += b"between" * number
        offsets.append(len(contents))
        contents += encoded_image(number)
    (tmp_path / "records").write_bytes(contents)
    data = index(
        [str(tmp_path / "records")] * COUNT,
        offsets=offsets,
        lengths=[len(encoded_image(number)) for number in range(COUNT)],
    )
    images, labels, _, numbers, _, _ = columns(trained(feed_of(data), 0, 3))
    assert np.array_equal(labels, numbers % 3)
    for image, number in zip(images, numbers, strict=True):
        assert np.array_equal(image, np.broadcast_to(colour(number), image.shape))


def test_file_names_may_be_any_bytes(tmp_path):
    names = [b"with space.png", b"\xff\xfe.png", "Größe 大.png".encode(), b"new\nline.png"]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(encoded_image(2 * number))
    images, _, _, numbers, _, _ = columns(trained(feed_of(index([*map(os.fsdecode, paths)])), 0, 1))
    check_pixels(images, 2 * numbers)


def test_a_file_that_vanished_is_named(folder):
    os.unlink(folder.paths[6])
    with pytest.raises(UserError, match=r"6\.png: No such file or directory.*restore it"):
        list(feed_of(folder).train_batches(0, 3))


def test_a_file_that_was_damaged_is_named(folder):
    with open(folder.paths[3], "r+b") as file:
        file.truncate(200)
    with pytest.raises(UserError, match=r"3\.jpeg: truncated or damaged JPEG.*readable when"):
        list(feed_of(folder).train_batches(0, 3))


def test_a_record_file_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "records").write_bytes(encoded_image(1) + encoded_image(2)[:-9])
    sizes = [len(encoded_image(1)), len(encoded_image(2))]
    data = index([str(tmp_path / "records")] * 2, offsets=[0, sizes[0]], lengths=sizes)
    with pytest.raises(UserError, match=rf"records@{sizes[0]}: .*ends before byte {sum(sizes)}"):
        list(feed_of(data).train_batches(0, 1))


def test_batches_before_a_broken_one_still_come(folder):
    loader = feed_of(folder)
    last = int(columns(trained(loader, 0, 3))[3][9])  # the only real ones of step 2 are 8 and 9
    first = columns(trained(loader, 0, 2))[3]
    os.unlink(folder.paths[last])
    read = loader.train_batches(0, 3)
    assert np.array_equal(columns([unstacked(next(read))[0] for _ in range(2)])[3], first)
    with pytest.raises(UserError, match=rf"/{last}\."):
        next(read)


def test_no_file_stays_open(folder):
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    loader = feed_of(folder)
    list(loader.train_batches(0, 3))
    before = open_files()
    list(loader.train_batches(3, 6))
    next(iter(loader.train_batches(0, 30)))  # one that is given up half-way
    deadline = time.monotonic() + 30  # what a thread is just reading it reads to its end
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert open_files() <= before
