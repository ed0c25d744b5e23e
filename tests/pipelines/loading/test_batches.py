"""Batches from real files: every example once, the same from any step, and faults by name."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf

from engine.core.dataset import Batch
from pipelines.loading import batches
from pipelines.sources import examples
from tests.pipelines.feeds import (
    COUNT,
    HEIGHT,
    RECIPE,
    SIZE,
    WIDTH,
    check_pixels,
    columns,
    feed_of,
    same,
    trained,
)


def test_a_batch_has_the_types_and_the_shape_that_it_promises(folder):
    loader = feed_of(folder)
    types = ["int32", "float32", "int32", "int32", "int32"]
    for batch, front in (
        (next(iter(loader.train_batches(0, 2, 2))), (2, SIZE)),
        (next(iter(loader.split_batches("train"))), (SIZE,)),
    ):
        assert batch.inputs.shape == (*front, HEIGHT, WIDTH, 3)
        assert batch.inputs.dtype == "uint8"
        assert [column.shape for column in batch[1:]] == [front] * 5
        assert [column.dtype.name for column in batch[1:]] == types


def test_groups_are_those_of_the_training_part(folder):
    grouped = folder.replace(groups=np.array([f"g{n}" for n in range(len(folder))], object))
    expected = [f"g{n}" for n in np.flatnonzero(folder.splits == examples.TRAIN)]
    assert list(feed_of(grouped).groups) == expected
    assert set(feed_of(folder).groups) == {""}


def test_an_epoch_reads_every_image_once_with_its_label(folder):
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
    for first, threads, steps_per_execution in ((1, 2, 1), (5, 1, 1), (2, 2, 3)):
        rest = trained(
            feed_of(folder, threads=threads), first, 7, steps_per_execution=steps_per_execution
        )
        assert len(rest) == 7 - first
        assert all(map(same, whole[first:], rest))


@pytest.mark.parametrize(
    ("first", "stop", "steps_per_execution", "lengths"),
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
    folder, first, stop, steps_per_execution, lengths
):
    for lookup in (None, table):
        read = list(feed_of(folder).train_batches(first, stop, steps_per_execution, lookup=lookup))
        assert [len(batch.labels) for batch in read] == lengths


def table(numbers, views) -> tuple[np.ndarray, ...]:
    """What may stand for images: arrays that tell example and view."""
    return (
        (1000 * views + numbers).astype(np.uint32),
        np.stack([numbers, views], 1)[:, :, None].astype(np.uint16),
    )


def by_turns(numbers, epoch) -> np.ndarray:
    return (numbers % 2 + 10 * epoch).astype(np.int32)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_views_are_those_of_each_example_and_epoch(folder, steps_per_execution):
    for batch in trained(
        feed_of(folder), 0, 7, steps_per_execution=steps_per_execution, views=by_turns
    ):
        numbers, epochs, views = (np.array(column) for column in batch[3:])
        assert np.array_equal(views, numbers % 2 + 10 * epochs)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_what_is_looked_up_stands_in_the_place_of_images(folder, steps_per_execution):
    loader = feed_of(folder)
    plain = trained(loader, 0, 7, views=by_turns)
    kept = trained(
        loader, 0, 7, steps_per_execution=steps_per_execution, views=by_turns, lookup=table
    )
    assert len(kept) == 7
    for batch, images in zip(kept, plain, strict=True):
        assert same(Batch((), *batch[1:]), Batch((), *images[1:]))
        numbers, views = np.array(batch.examples), np.array(batch.views)
        one, other = batch.inputs
        assert (one.dtype, other.dtype) == (tf.uint32, tf.uint16)
        assert np.array_equal(one, 1000 * views + numbers)
        assert np.array_equal(np.array(other)[:, :, 0], np.stack([numbers, views], 1))


class Shelf:
    """Decoded images that stand in an order of their own, with gaps between them."""

    def __init__(self, images: np.ndarray) -> None:
        self.places = np.random.default_rng(0).permutation(2 * len(images))[: len(images)]
        self.shelf = np.zeros((2 * len(images), *images.shape[1:]), np.uint8)
        self.shelf[self.places] = images

    def take(self, places) -> np.ndarray:
        return self.shelf[places]


def test_kept_images_come_as_those_from_files_and_no_file_is_read(folder):
    splits = np.array([examples.TRAIN, examples.VALIDATION] * 5)
    data = folder.replace(splits=splits)
    from_files = feed_of(data)
    expected = [*trained(from_files, 0, 5), *from_files.split_batches("validation")]
    everything = columns(feed_of(folder).split_batches("train"))[0][:COUNT]
    shelf = Shelf(everything)
    for path in folder.paths:
        os.unlink(path)
    kept = batches.ImageDataLoader(data.replace(rows=shelf.places), RECIPE, 2, shelf)
    got = [*trained(kept, 0, 5, steps_per_execution=2), *kept.split_batches("validation")]
    assert len(got) == len(expected) == 7
    assert all(map(same, expected, got))


def test_a_single_tensor_that_is_no_image_stays_a_tuple(folder):
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
    read = feed_of(folder).train_batches(0, 30, lookup=table)
    next(read)
    assert threading.active_count() > before, "one works ahead"
    read.close()
    assert threading.active_count() == before


def test_validation_and_test_parts_are_read_in_their_order(folder):
    splits = np.array([examples.TRAIN] * 3 + [examples.VALIDATION] * 5 + [examples.TEST] * 2)
    loader = feed_of(folder.replace(splits=splits))
    for part, numbers in (("validation", range(3, 8)), ("test", range(8, 10)), ("train", range(3))):
        images, labels, weights, own, _, _ = columns(loader.split_batches(part))
        real = weights == 1
        assert np.array_equal(own[real], np.arange(len(numbers)))
        assert np.array_equal(labels[real], [number % 3 for number in numbers])
        check_pixels(images[real], np.array(numbers))
        assert len(weights) % SIZE == 0
    assert (loader.train_examples, loader.validation_examples, loader.test_examples) == (3, 5, 2)
    assert loader.class_counts == (1, 1, 1)


@pytest.mark.parametrize("which", [[0], [2], [1, 0], [], [0, 1, 2]])
def test_of_a_parts_batches_those_that_are_named(folder, which):
    loader = feed_of(folder)
    whole = list(loader.split_batches("train"))
    chosen = list(loader.split_batches("train", which))
    assert len(chosen) == len(which)
    assert all(same(whole[number], batch) for number, batch in zip(which, chosen, strict=True))


def test_without_a_test_part_there_is_nothing_to_test_on(folder):
    loader = feed_of(folder)
    assert loader.test_examples == 0
    assert list(loader.split_batches("test")) == []


def test_a_part_smaller_than_a_batch_fills_one(folder):
    _, _, weights, numbers, _, _ = columns(trained(feed_of(folder.take([4, 7])), 0, 1))
    assert weights.tolist() == [1, 1, 0, 0]
    assert sorted(numbers[:2]) == [0, 1]
