"""Batches from real files: every example once, the same from any step, and faults by name."""

import dataclasses
import gc
import os

import numpy as np
import pytest
from PIL import Image

from engine.specs import DataSpec, Phase, Recipe, UserError
from pipelines import batches, examples
from tests.pipelines.pictures import saved

COUNT, SIZE, HEIGHT, WIDTH = 10, 4, 6, 8
RECIPE = Recipe(
    data=DataSpec("folders", "pictures"),
    phases=(Phase("transfer"),),
    backbone="efficientnet_lite0",
    image_size=(HEIGHT, WIDTH),
    batch_size=SIZE,
    seed=5,
)


def colour(number: int) -> tuple[int, int, int]:
    """Every picture is of one colour, which tells who it is."""
    return 25 * number, 255 - 20 * number, 7 * number


def picture(number: int, kind: str = "PNG") -> bytes:
    options = {"quality": 95} if kind == "JPEG" else {}
    return saved(Image.new("RGB", (20, 17), colour(number)), kind, **options)


@pytest.fixture
def folder(tmp_path):
    """Ten files; every other one is a JPEG."""
    paths = []
    for number in range(COUNT):
        kind = ("PNG", "JPEG")[number % 2]
        paths.append(tmp_path / f"{number}.{kind.lower()}")
        paths[-1].write_bytes(picture(number, kind))
    return index([str(path) for path in paths])


def index(paths, **columns) -> examples.Examples:
    labels = [number % 3 for number in range(len(paths))]
    keys = [str(number) for number in range(len(paths))]
    return examples.from_columns(paths, labels, ("a", "b", "c"), keys=keys, **columns)


def feed_of(data, threads=2, **changes):
    return batches.make_feed(data, dataclasses.replace(RECIPE, **changes), threads)


def columns(read) -> list[np.ndarray]:
    """All batches one behind the other: images, labels, weights, examples, epochs."""
    return [np.concatenate(column) for column in zip(*read, strict=True)]


def check_pixels(images: np.ndarray, numbers: np.ndarray) -> None:
    for image, number in zip(images, numbers, strict=True):
        wanted = np.broadcast_to(colour(number), image.shape)
        np.testing.assert_allclose(image, wanted, atol=3 if number % 2 else 0)


def test_a_batch_has_the_types_and_the_shape_that_it_promises(folder):
    batch = next(iter(feed_of(folder).train(0, 1)))
    assert batch.images.shape == (SIZE, HEIGHT, WIDTH, 3)
    assert batch.images.dtype == "uint8"
    assert [column.shape for column in batch[1:]] == [(SIZE,)] * 4
    assert [column.dtype.name for column in batch[1:]] == ["int32", "float32", "int32", "int32"]


def test_an_epoch_reads_every_picture_once_with_its_label(folder):
    read = list(feed_of(folder).train(0, 6))
    assert len(read) == 6
    for epoch in (0, 1):
        images, labels, weights, numbers, epochs = columns(read[3 * epoch : 3 * epoch + 3])
        assert sorted(numbers[weights == 1]) == list(range(COUNT))
        assert weights.tolist() == [1] * COUNT + [0, 0]
        assert set(epochs) == {epoch}
        assert np.array_equal(labels, numbers % 3)
        check_pixels(images, numbers)


def test_epochs_and_seeds_have_different_orders(folder):
    first, second = (columns(feed_of(folder).train(3 * e, 3 * e + 3))[3] for e in (0, 1))
    other = columns(feed_of(folder, seed=6).train(0, 3))[3]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_taken_up_at_a_step_the_batches_are_those_of_an_undisturbed_run(folder):
    whole = list(feed_of(folder).train(0, 7))
    for first, threads in ((1, 2), (5, 1)):
        rest = list(feed_of(folder, threads=threads).train(first, 7))
        assert len(rest) == 7 - first
        for expected, got in zip(whole[first:], rest, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))


def test_validation_and_test_parts_are_read_in_their_order(folder):
    splits = np.array([examples.TRAIN] * 3 + [examples.VALIDATION] * 5 + [examples.TEST] * 2)
    feed = feed_of(folder.replace(splits=splits))
    for part, numbers in ((feed.validation(), range(3, 8)), (feed.test(), range(8, 10))):
        images, labels, weights, _, _ = columns(part)
        real = weights == 1
        assert np.array_equal(labels[real], [number % 3 for number in numbers])
        check_pixels(images[real], np.array(numbers))
        assert len(weights) % SIZE == 0
    assert feed.validation_examples == 5
    assert feed.class_counts == (1, 1, 1)


def test_without_a_test_part_there_is_nothing_to_test_on(folder):
    assert feed_of(folder).test is None


def test_a_part_smaller_than_a_batch_fills_one(folder):
    _, _, weights, numbers, _ = columns(feed_of(folder.take([4, 7])).train(0, 1))
    assert weights.tolist() == [1, 1, 0, 0]
    assert sorted(numbers[:2]) == [0, 1]


def test_pictures_inside_a_bigger_file_are_read_at_their_place(tmp_path):
    contents, offsets = b"", []
    for number in range(COUNT):
        contents += b"between" * number
        offsets.append(len(contents))
        contents += picture(number)
    (tmp_path / "records").write_bytes(contents)
    data = index(
        [str(tmp_path / "records")] * COUNT,
        offsets=offsets,
        lengths=[len(picture(number)) for number in range(COUNT)],
    )
    images, labels, _, numbers, _ = columns(feed_of(data).train(0, 3))
    assert np.array_equal(labels, numbers % 3)
    for image, number in zip(images, numbers, strict=True):
        assert np.array_equal(image, np.broadcast_to(colour(number), image.shape))


def test_file_names_may_be_any_bytes(tmp_path):
    names = [b"with space.png", b"\xff\xfe.png", "Größe 大.png".encode(), b"new\nline.png"]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(picture(2 * number))
    images, _, _, numbers, _ = columns(feed_of(index([*map(os.fsdecode, paths)])).train(0, 1))
    check_pixels(images, 2 * numbers)


def test_a_file_that_vanished_is_named(folder):
    os.unlink(folder.paths[6])
    with pytest.raises(UserError, match=r"6\.png: No such file or directory.*put it back"):
        list(feed_of(folder).train(0, 3))


def test_a_file_that_was_damaged_is_named(folder):
    with open(folder.paths[3], "r+b") as file:
        file.truncate(200)
    with pytest.raises(UserError, match=r"3\.jpeg: truncated or damaged JPEG.*sound when"):
        list(feed_of(folder).train(0, 3))


def test_a_record_file_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "records").write_bytes(picture(1) + picture(2)[:-9])
    sizes = [len(picture(1)), len(picture(2))]
    data = index([str(tmp_path / "records")] * 2, offsets=[0, sizes[0]], lengths=sizes)
    with pytest.raises(UserError, match=rf"records@{sizes[0]}: .*ends before byte {sum(sizes)}"):
        list(feed_of(data).train(0, 1))


def test_batches_before_a_broken_one_still_come(folder):
    feed = feed_of(folder)
    last = int(columns(feed.train(0, 3))[3][9])  # the only real ones of step 2 are 8 and 9
    first = columns(feed.train(0, 2))[3]
    os.unlink(folder.paths[last])
    read = feed.train(0, 3)
    assert np.array_equal(columns([next(read), next(read)])[3], first)
    with pytest.raises(UserError, match=rf"/{last}\."):
        next(read)


def test_no_file_stays_open(folder):
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    feed = feed_of(folder)
    list(feed.train(0, 3))
    before = open_files()
    list(feed.train(3, 6))
    next(iter(feed.train(0, 30)))  # one that is given up half-way
    assert open_files() <= before
