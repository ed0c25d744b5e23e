"""The images of a report: taken out of their batches, explained, and made small."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from engine.core.dataset import Batch
from engine.models.classifier import Classifier

SIDE = 208  # pixels of a thumbnail's longer side: sharp at the width that a page gives it
QUALITY = 78


class Source(NamedTuple):
    """Images in their order.

    once: gives the batches with the given numbers, as `DataLoader.split_batches` does.
    between: is called before each batch; what it raises ends the work.
    """

    once: Callable[[list[int]], Iterable[Batch]]
    batch_size: int
    between: Callable[[], None]


class Taken(NamedTuple):
    """image: uint8 [H, W, 3], as the network sees it. label: as it was given."""

    number: int
    image: np.ndarray
    label: int


def take(source: Source, numbers: Iterable[int]) -> Iterator[Taken]:
    """The images with these numbers, lowest first, from no more batches than hold them."""
    wanted = {int(number) for number in numbers}
    which = sorted({number // source.batch_size for number in wanted})
    for batch in source.once(which) if which else ():
        source.between()
        images, labels = np.asarray(batch.inputs), np.asarray(batch.labels)
        real = np.asarray(batch.weights) > 0
        for place, number in enumerate(np.asarray(batch.examples).tolist()):
            if real[place] and number in wanted:
                yield Taken(number, images[place], int(labels[place]))


def explained(
    classifier: Classifier, source: Source, shown: Mapping[int, int]
) -> dict[int, tuple[bytes, bytes]]:
    """JPEGs of the images, and of where in them the network saw a class.

    shown: the number of each image, and the class.
    """
    from engine.inference import gradcam

    if not shown:
        return {}
    heat_of, found = gradcam.from_classifier(classifier), {}
    for number, image, _ in take(source, shown):
        source.between()
        (heat,) = heat_of(image[None], np.array([shown[number]], np.int32))
        found[number] = jpeg(image), jpeg(gradcam.overlay(image, heat))
    return found


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> a JPEG of SIDE pixels at most."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
