"""Batches from real files: every example once, the same from any step, and faults by name."""

import dataclasses
import gc
import os
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from engine.specs import Batch, DataSpec, Phase, Recipe, UserError
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


def trained(feed, first, stop, **more) -> list[Batch]:
    """The training batches of these steps, one by one."""
    return [batch for call in feed.train(first, stop, **more) for batch in unstacked(call)]


def unstacked(call: Batch) -> list[Batch]:
    count = call.labels.shape[0]
    return [tf.nest.map_structure(lambda column: column[n], call) for n in range(count)]  # noqa: B023


def columns(read) -> list[np.ndarray]:
    """All batches one behind the other: pictures, labels, weights, examples, epochs, views."""
    return [np.concatenate(column) for column in zip(*read, strict=True)]


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def check_pixels(images: np.ndarray, numbers: np.ndarray) -> None:
    for image, number in zip(images, numbers, strict=True):
        wanted = np.broadcast_to(colour(number), image.shape)
        np.testing.assert_allclose(image, wanted, atol=3 if number % 2 else 0)


def test_a_batch_has_the_types_and_the_shape_that_it_promises(folder):
    feed = feed_of(folder)
    types = ["int32", "float32", "int32", "int32", "int32"]
    for batch, front in (
        (next(iter(feed.train(0, 2, 2))), (2, SIZE)),
        (next(iter(feed.once("train"))), (SIZE,)),
    ):
        assert batch.inputs.shape == (*front, HEIGHT, WIDTH, 3)
        assert batch.inputs.dtype == "uint8"
        assert [column.shape for column in batch[1:]] == [front] * 5
        assert [column.dtype.name for column in batch[1:]] == types


def test_an_epoch_reads_every_picture_once_with_its_label(folder):
    read = trained(feed_of(folder), 0, 6)
    assert len(read) == 6
    for epoch in (0, 1):
        images, labels, weights, numbers, epochs, views = columns(read[3 * epoch : 3 * epoch + 3])
        assert sorted(numbers[weights == 1]) == list(range(COUNT))
        assert weights.tolist() == [1] * COUNT + [0, 0]
        assert set(epochs) == set(views) == {epoch}
        assert np.array_equal(labels, numbers % 3)
        check_pixels(images, numbers)


def test_epochs_and_seeds_have_different_orders(folder):
    first, second = (columns(trained(feed_of(folder), 3 * e, 3 * e + 3))[3] for e in (0, 1))
    other = columns(trained(feed_of(folder, seed=6), 0, 3))[3]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_taken_up_at_a_step_the_batches_are_those_of_an_undisturbed_run(folder):
    whole = trained(feed_of(folder), 0, 7)
    for first, threads, per_call in ((1, 2, 1), (5, 1, 1), (2, 2, 3)):
        rest = trained(feed_of(folder, threads=threads), first, 7, per_call=per_call)
        assert len(rest) == 7 - first
        assert all(map(same, whole[first:], rest))


@pytest.mark.parametrize(
    ("first", "stop", "per_call", "lengths"),
    [
        (1, 6, 1, [1] * 5),
        (1, 6, 2, [2, 2, 1]),
        (1, 6, 9, [2, 3]),
        (0, 4, 2, [2, 1, 1]),
        (0, 8, 2, [2, 1, 2, 1, 2]),
        (2, 7, 2, [1, 2, 1, 1]),
    ],
)
def test_a_call_holds_as_many_steps_as_asked_for_or_what_is_left_of_the_epoch(
    folder, first, stop, per_call, lengths
):
    for lookup in (None, table):
        read = list(feed_of(folder).train(first, stop, per_call, lookup=lookup))
        assert [len(batch.labels) for batch in read] == lengths


def table(numbers, views) -> tuple[np.ndarray, ...]:
    """What may stand for pictures: arrays that tell example and view."""
    return (
        (1000 * views + numbers).astype(np.uint32),
        np.stack([numbers, views], 1)[:, :, None].astype(np.uint16),
    )


def by_turns(numbers, epoch) -> np.ndarray:
    return (numbers % 2 + 10 * epoch).astype(np.int32)


@pytest.mark.parametrize("per_call", [1, 4])
def test_views_are_those_of_each_example_and_epoch(folder, per_call):
    for batch in trained(feed_of(folder), 0, 7, per_call=per_call, views=by_turns):
        numbers, epochs, views = (np.array(column) for column in batch[3:])
        assert np.array_equal(views, numbers % 2 + 10 * epochs)


@pytest.mark.parametrize("per_call", [1, 4])
def test_what_is_looked_up_stands_in_the_place_of_pictures(folder, per_call):
    feed = feed_of(folder)
    plain = trained(feed, 0, 7, views=by_turns)
    kept = trained(feed, 0, 7, per_call=per_call, views=by_turns, lookup=table)
    assert len(kept) == 7
    for batch, pictures in zip(kept, plain, strict=True):
        assert same(Batch((), *batch[1:]), Batch((), *pictures[1:]))
        numbers, views = np.array(batch.examples), np.array(batch.views)
        one, other = batch.inputs
        assert (one.dtype, other.dtype) == (tf.uint32, tf.uint16)
        assert np.array_equal(one, 1000 * views + numbers)
        assert np.array_equal(np.array(other)[:, :, 0], np.stack([numbers, views], 1))


class Shelf:
    """Decoded pictures that stand in an order of their own, with gaps between them."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.places = np.random.default_rng(0).permutation(2 * len(pictures))[: len(pictures)]
        self.shelf = np.zeros((2 * len(pictures), *pictures.shape[1:]), np.uint8)
        self.shelf[self.places] = pictures

    def take(self, places) -> np.ndarray:
        return self.shelf[places]


def test_kept_pictures_come_as_those_from_files_and_no_file_is_read(folder):
    splits = np.array([examples.TRAIN, examples.VALIDATION] * 5)
    data = folder.replace(splits=splits)
    from_files = feed_of(data)
    expected = [*trained(from_files, 0, 5), *from_files.once("validation")]
    everything = columns(feed_of(folder).once("train"))[0][:COUNT]
    shelf = Shelf(everything)
    for path in folder.paths:
        os.unlink(path)
    kept = batches.make_feed(data.replace(rows=shelf.places), RECIPE, 2, shelf)
    got = [*trained(kept, 0, 5, per_call=2), *kept.once("validation")]
    assert len(got) == len(expected) == 7
    assert all(map(same, expected, got))


def test_a_single_tensor_that_is_no_picture_stays_a_tuple(folder):
    batch = trained(feed_of(folder), 0, 1, lookup=lambda n, v: (n.astype(np.uint32),))[0]
    assert [len(batch.inputs), batch.inputs[0].dtype] == [1, tf.uint32]


def test_a_lookup_reads_no_file(folder):
    for path in folder.paths:
        os.unlink(path)
    assert len(trained(feed_of(folder), 0, 6, lookup=table)) == 6


def test_what_a_lookup_raises_is_raised_here(folder):
    with pytest.raises(ZeroDivisionError):
        trained(feed_of(folder), 0, 6, lookup=lambda numbers, views: 1 // 0)


def test_batches_given_up_half_way_leave_no_thread(folder):
    before = threading.active_count()
    read = feed_of(folder).train(0, 30, lookup=table)
    next(read)
    assert threading.active_count() > before, "one works ahead"
    read.close()
    assert threading.active_count() == before


def test_validation_and_test_parts_are_read_in_their_order(folder):
    splits = np.array([examples.TRAIN] * 3 + [examples.VALIDATION] * 5 + [examples.TEST] * 2)
    feed = feed_of(folder.replace(splits=splits))
    for part, numbers in (("validation", range(3, 8)), ("test", range(8, 10)), ("train", range(3))):
        images, labels, weights, own, _, _ = columns(feed.once(part))
        real = weights == 1
        assert np.array_equal(own[real], np.arange(len(numbers)))
        assert np.array_equal(labels[real], [number % 3 for number in numbers])
        check_pixels(images[real], np.array(numbers))
        assert len(weights) % SIZE == 0
    assert (feed.train_examples, feed.validation_examples, feed.test_examples) == (3, 5, 2)
    assert feed.class_counts == (1, 1, 1)


@pytest.mark.parametrize("which", [[0], [2], [1, 0], [], [0, 1, 2]])
def test_of_a_parts_batches_those_that_are_named(folder, which):
    feed = feed_of(folder)
    whole = list(feed.once("train"))
    chosen = list(feed.once("train", which))
    assert len(chosen) == len(which)
    assert all(same(whole[number], batch) for number, batch in zip(which, chosen, strict=True))


def test_without_a_test_part_there_is_nothing_to_test_on(folder):
    feed = feed_of(folder)
    assert feed.test_examples == 0
    assert list(feed.once("test")) == []


def test_a_part_smaller_than_a_batch_fills_one(folder):
    _, _, weights, numbers, _, _ = columns(trained(feed_of(folder.take([4, 7])), 0, 1))
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
    images, labels, _, numbers, _, _ = columns(trained(feed_of(data), 0, 3))
    assert np.array_equal(labels, numbers % 3)
    for image, number in zip(images, numbers, strict=True):
        assert np.array_equal(image, np.broadcast_to(colour(number), image.shape))


def test_file_names_may_be_any_bytes(tmp_path):
    names = [b"with space.png", b"\xff\xfe.png", "Größe 大.png".encode(), b"new\nline.png"]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for number, path in enumerate(paths):
        with open(path, "wb") as file:
            file.write(picture(2 * number))
    images, _, _, numbers, _, _ = columns(trained(feed_of(index([*map(os.fsdecode, paths)])), 0, 1))
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
    last = int(columns(trained(feed, 0, 3))[3][9])  # the only real ones of step 2 are 8 and 9
    first = columns(trained(feed, 0, 2))[3]
    os.unlink(folder.paths[last])
    read = feed.train(0, 3)
    assert np.array_equal(columns([unstacked(next(read))[0] for _ in range(2)])[3], first)
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
    deadline = time.monotonic() + 30  # what a thread is just reading it reads to its end
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert open_files() <= before
