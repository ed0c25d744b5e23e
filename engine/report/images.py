"""The images of a report: read from batches, explained, and reduced to thumbnails."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from engine.core.dataset import Batch
from engine.models.classifier import Classifier

MAX_SIDE = 208  # pixels of a thumbnail: sharp at the width that a page gives it
QUALITY = 78


class ImageSource(NamedTuple):
    """Images in their order.

    batches: returns the batches with these numbers, as `DataLoader.split_batches` does.
    batch_size: of these.
    check_stop: called before each batch; it raises to stop the work.
    """

    batches: Callable[[list[int]], Iterable[Batch]]
    batch_size: int
    check_stop: Callable[[], None]


def read_images(source: ImageSource, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the images with these numbers in ascending order, from as few batches as possible.

    Yields:
      an image's number, and the image as the network sees it, uint8 [H, W, 3].
    """
    wanted = set(numbers)
    which = sorted({number // source.batch_size for number in wanted})
    for batch in source.batches(which) if which else ():
        source.check_stop()
        images, real = np.asarray(batch.inputs), np.asarray(batch.weights) > 0
        for row, number in enumerate(np.asarray(batch.examples).tolist()):
            if real[row] and number in wanted:
                yield number, images[row]


def explain_images(
    classifier: Classifier,
    source: ImageSource,
    classes: Mapping[int, int],
    deadline: float = math.inf,
) -> dict[int, tuple[bytes, bytes]]:
    """Returns JPEGs of images, and of the same under the heat map of a class.

    The second is empty where no region is evidence for the class.

    Args:
      classifier: whose prediction to explain.
      source: the images.
      classes: the number of each image, and the class to explain in it; what matters most first.
      deadline: by `time.perf_counter`; images that come later, except the first, are omitted.
    """
    from engine.inference import gradcam

    if not classes:
        return {}
    explain, images = gradcam.from_classifier(classifier), dict(read_images(source, classes))
    jpegs: dict[int, tuple[bytes, bytes]] = {}
    for number, explained in classes.items():
        if jpegs and time.perf_counter() > deadline:
            break
        source.check_stop()
        image = images[number]
        (heat,) = explain(image[None], np.array([explained], np.int32))
        jpegs[number] = jpeg(image), jpeg(gradcam.overlay(image, heat)) if heat.any() else b""
    return jpegs


def jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> a JPEG of at most MAX_SIDE pixels."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()
