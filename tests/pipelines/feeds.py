"""Images of one colour each, loaded in batches, and how to recognise them."""

import dataclasses

import numpy as np
import tensorflow as tf
from PIL import Image

from engine.core.dataset import Batch
from engine.core.recipe import DataSpec, Phase, Recipe
from pipelines.loading import batches
from pipelines.sources import examples
from tests.pipelines.encoded_images import saved

COUNT, SIZE, HEIGHT, WIDTH = 10, 4, 6, 8
RECIPE = Recipe(
    data=DataSpec("folders", "images"),
    phases=(Phase("transfer"),),
    backbone="efficientnet_lite0",
    image_size=(HEIGHT, WIDTH),
    batch_size=SIZE,
    seed=5,
)


def colour(number: int) -> tuple[int, int, int]:
    """Every image is of one colour, which identifies it."""
    return 25 * number, 255 - 20 * number, 7 * number


def encoded_image(number: int, kind: str = "PNG") -> bytes:
    options = {"quality": 95} if kind == "JPEG" else {}
    return saved(Image.new("RGB", (20, 17), colour(number)), kind, **options)


def index(paths, **columns) -> examples.Examples:
    labels = [number % 3 for number in range(len(paths))]
    keys = [str(number) for number in range(len(paths))]
    return examples.from_columns(paths, labels, ("a", "b", "c"), keys=keys, **columns)


def loader_of(data, threads=2, pixels=None, **changes) -> batches.ImageDataLoader:
    return batches.ImageDataLoader(data, dataclasses.replace(RECIPE, **changes), threads, pixels)


def train_steps(loader, first, stop, **options) -> list[Batch]:
    """The training batches of these steps, one by one."""
    executions = loader.train_batches(first, stop, **options)
    return [batch for execution in executions for batch in unstack(execution)]


def unstack(execution: Batch) -> list[Batch]:
    count = execution.labels.shape[0]
    return [
        tf.nest.map_structure(lambda column: column[n], execution)  # noqa: B023
        for n in range(count)
    ]


def columns(read) -> list[np.ndarray]:
    """All batches concatenated: images, labels, weights, examples, epochs, views."""
    return [np.concatenate(column) for column in zip(*read, strict=True)]


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def check_pixels(images: np.ndarray, numbers: np.ndarray) -> None:
    for image, number in zip(images, numbers, strict=True):
        wanted = np.broadcast_to(colour(number), image.shape)
        np.testing.assert_allclose(image, wanted, atol=3 if number % 2 else 0)
