"""Batches from files: every example once an epoch, and the same from any step on."""

import os

import numpy as np
import pytest
import tensorflow as tf

from engine.core.dataset import Batch
from pipelines.pixel_cache.cache import PixelCache
from pipelines.sources import examples
from tests.pipelines.cached import blank_index
from tests.pipelines.feeds import (
    COUNT,
    HEIGHT,
    SIZE,
    WIDTH,
    check_pixels,
    columns,
    loader_of,
    same,
    train_steps,
)

pytestmark = pytest.mark.usefixtures("quick_decoding")


def test_batch_has_the_documented_shapes_and_types(folder):
    loader = loader_of(folder)
    types = ["int32", "float32", "int32", "int32", "int32"]
    for batch, front in (
        (next(iter(loader.train_batches(0, 2, 2))), (2, SIZE)),
        (next(iter(loader.split_batches("train"))), (SIZE,)),
    ):
        assert batch.inputs.shape == (*front, HEIGHT, WIDTH, 3)
        assert batch.inputs.dtype == "uint8"
        assert [column.shape for column in batch[1:]] == [front] * 5
        assert [column.dtype.name for column in batch[1:]] == types


def test_groups_and_names_are_those_of_the_training_examples(folder):
    grouped = folder.replace(groups=np.array([f"g{n}" for n in range(len(folder))], object))
    wanted = np.flatnonzero(folder.splits == examples.TRAIN)
    loader = loader_of(grouped)
    assert list(loader.groups) == [f"g{n}" for n in wanted]
    assert loader.example_name(3) == folder.paths[wanted[3]]
    assert set(loader_of(folder).groups) == {""}


def test_epoch_reads_every_image_once_with_its_label(folder):
    read = train_steps(loader_of(folder), 0, 6)
    for epoch in (0, 1):
        images, labels, weights, numbers, epochs, views = columns(read[3 * epoch : 3 * epoch + 3])
        assert sorted(numbers[weights == 1]) == list(range(COUNT))
        assert weights.tolist() == [1] * COUNT + [0, 0]
        assert set(epochs) == set(views) == {epoch}
        assert np.array_equal(labels, numbers % 3)
        check_pixels(images, numbers)
    other_seed = columns(train_steps(loader_of(folder, seed=6), 0, 3))[3]
    assert not np.array_equal(other_seed, columns(read[:3])[3])


def test_batches_from_a_later_step_are_those_of_an_uninterrupted_run(folder):
    whole = train_steps(loader_of(folder), 0, 7)
    for first, threads, steps_per_execution in ((1, 2, 1), (5, 1, 1), (2, 2, 3)):
        loader = loader_of(folder, threads=threads)
        rest = train_steps(loader, first, 7, steps_per_execution=steps_per_execution)
        assert len(rest) == 7 - first
        assert all(map(same, whole[first:], rest))


def lookup(numbers, views) -> tuple[np.ndarray, ...]:
    """Arrays that identify example and view."""
    return (
        (1000 * views + numbers).astype(np.uint32),
        np.stack([numbers, views], 1)[:, :, None].astype(np.uint16),
    )


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
def test_execution_stacks_the_requested_steps_or_the_rest_of_the_epoch(
    folder, first, stop, steps_per_execution, lengths
):
    for source in (None, lookup):
        loader = loader_of(folder)
        read = list(loader.train_batches(first, stop, steps_per_execution, lookup=source))
        assert [len(batch.labels) for batch in read] == lengths


def alternating(numbers, epoch) -> np.ndarray:
    return (numbers % 2 + 10 * epoch).astype(np.int32)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_lookup_replaces_the_images_and_nothing_else(folder, steps_per_execution):
    options = {"steps_per_execution": steps_per_execution, "views": alternating}
    loader = loader_of(folder)
    plain = train_steps(loader, 0, 7, **options)
    for path in folder.paths:
        os.unlink(path)  # no file is read
    cached = train_steps(loader, 0, 7, lookup=lookup, **options)
    assert len(cached) == 7
    for batch, images in zip(cached, plain, strict=True):
        assert same(Batch((), *batch[1:]), Batch((), *images[1:]))
        numbers, epochs, views = (np.array(column) for column in batch[3:])
        assert np.array_equal(views, numbers % 2 + 10 * epochs)
        one, other = batch.inputs
        assert (one.dtype, other.dtype) == (tf.uint32, tf.uint16)
        assert np.array_equal(one, 1000 * views + numbers)
        assert np.array_equal(np.array(other)[:, :, 0], np.stack([numbers, views], 1))


def test_cached_pixels_come_as_those_from_files_and_no_file_is_read(folder):
    data = folder.replace(splits=np.array([examples.TRAIN, examples.VALIDATION] * 5))
    from_files = loader_of(data)
    wanted = [*train_steps(from_files, 0, 5), *from_files.split_batches("validation")]
    images = columns(loader_of(folder).split_batches("train"))[0][:COUNT]
    rows = np.random.default_rng(0).permutation(2 * COUNT)[:COUNT]  # with gaps between them
    scattered = np.zeros((2 * COUNT, *images.shape[1:]), np.uint8)
    scattered[rows] = images
    pixels = PixelCache(images.shape[1:], blank_index(2 * COUNT), memory=scattered)
    for path in folder.paths:
        os.unlink(path)
    cached = loader_of(data.replace(rows=rows), pixels=pixels)
    read = [
        *train_steps(cached, 0, 5, steps_per_execution=2),
        *cached.split_batches("validation"),
    ]
    assert len(read) == len(wanted) == 7
    assert all(map(same, wanted, read))


def test_lookup_of_a_single_array_stays_a_tuple(folder):
    batch = train_steps(loader_of(folder), 0, 1, lookup=lambda n, v: (n.astype(np.uint32),))[0]
    assert [len(batch.inputs), batch.inputs[0].dtype] == [1, tf.uint32]


def test_splits_are_read_in_order(folder):
    splits = np.array([examples.TRAIN] * 3 + [examples.VALIDATION] * 5 + [examples.TEST] * 2)
    loader = loader_of(folder.replace(splits=splits))
    for split, numbers in (
        ("validation", range(3, 8)),
        ("test", range(8, 10)),
        ("train", range(3)),
    ):
        images, labels, weights, own, _, _ = columns(loader.split_batches(split))
        real = weights == 1
        assert np.array_equal(own[real], np.arange(len(numbers)))
        assert np.array_equal(labels[real], [number % 3 for number in numbers])
        check_pixels(images[real], np.array(numbers))
        assert len(weights) % SIZE == 0
    assert (loader.train_examples, loader.validation_examples, loader.test_examples) == (3, 5, 2)
    assert loader.class_counts == (1, 1, 1)


def test_requested_batches_of_a_split_are_those_of_the_whole(folder):
    loader = loader_of(folder)
    whole = list(loader.split_batches("train"))
    for which in ([2], [1, 0], []):
        chosen = list(loader.split_batches("train", which))
        assert all(same(whole[number], batch) for number, batch in zip(which, chosen, strict=True))
    assert list(loader.split_batches("test")) == []
