"""Batches and their files: inside others, of any name, broken, missing, and closed."""

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
    index,
    loader_of,
    train_steps,
    unstack,
)

pytestmark = pytest.mark.usefixtures("quick_decoding")


def test_images_inside_a_larger_file_are_read_at_their_offsets(tmp_path):
    images = [encoded_image(number) for number in range(COUNT)]
    lengths = [len(image) for image in images]
    offsets = np.cumsum(lengths) - lengths + 7 * np.arange(COUNT)
    (tmp_path / "records").write_bytes(b"between".join(images))
    data = index([str(tmp_path / "records")] * COUNT, offsets=offsets, lengths=lengths)
    for image, number in zip(*columns(train_steps(loader_of(data), 0, 3))[0:4:3], strict=True):
        assert (image == colour(number)).all()


def test_file_names_may_be_any_bytes(tmp_path):
    names = [b"with space.png", b"\xff\xfe.png", "Größe 大.png".encode(), b"new\nline.png"]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(encoded_image(2 * number))
    loader = loader_of(index([*map(os.fsdecode, paths)]))
    images, _, _, numbers, _, _ = columns(train_steps(loader, 0, 1))
    check_pixels(images, 2 * numbers)


def test_missing_file_is_named(folder):
    os.unlink(folder.paths[6])
    with pytest.raises(UserError, match=r"6\.png: No such file or directory.*restore it"):
        list(loader_of(folder).train_batches(0, 3))


@pytest.mark.usefixtures("real_decode")
def test_damaged_file_is_named(folder):
    os.truncate(folder.paths[3], 200)
    with pytest.raises(UserError, match=r"3\.jpeg: truncated or damaged JPEG.*readable when"):
        list(loader_of(folder).train_batches(0, 3))


def test_record_file_that_was_cut_short_is_named(tmp_path):
    (tmp_path / "records").write_bytes(encoded_image(1) + encoded_image(2)[:-9])
    sizes = [len(encoded_image(1)), len(encoded_image(2))]
    data = index([str(tmp_path / "records")] * 2, offsets=[0, sizes[0]], lengths=sizes)
    with pytest.raises(UserError, match=rf"records@{sizes[0]}: .*ends before byte {sum(sizes)}"):
        list(loader_of(data).train_batches(0, 1))


def test_batches_before_a_broken_one_are_yielded(folder):
    loader = loader_of(folder)
    numbers = columns(train_steps(loader, 0, 3))[3]
    last = int(numbers[9])  # the only real ones of step 2 are 8 and 9
    os.unlink(folder.paths[last])
    read = loader.train_batches(0, 3)
    assert np.array_equal(columns([unstack(next(read))[0] for _ in range(2)])[3], numbers[:8])
    with pytest.raises(UserError, match=rf"/{last}\."):
        next(read)


def test_no_file_stays_open(folder):
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    loader = loader_of(folder)
    list(loader.train_batches(0, 3))
    before = open_files()
    list(loader.train_batches(3, 6))
    next(iter(loader.train_batches(0, 30)))  # dropped half-way
    deadline = time.monotonic() + 30  # a thread finishes the file that it is reading
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert open_files() <= before
