"""Reads images for prediction by the same pipeline as training, in order, past unreadable ones.

They are read and decoded in parallel. An image that fails in the pipeline is read once more for the
reason. Only images in flight are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import ImageGroup
from engine.core.errors import UserError
from pipelines.decode import decode
from pipelines.loading.batches import PREFETCHED_BATCHES
from pipelines.predict import fetch
from pipelines.sources.examples import read_bytes, require_file_size
from pipelines.sources.reader import IMAGES_PER_THREAD, dataset_options


def flush_interval(batch_size: int) -> int:
    """Returns the number of images after which a batch ends however full it is."""
    return 32 * batch_size


class ImageStream:
    """The images of files and URLs, as groups that each fill a batch.

    Args:
      places: paths and http(s) URLs.
      allow_private: see `fetch.fetch`.
      device: to which the images are copied, or None for host memory.
    """

    def __init__(
        self,
        places: Sequence[str],
        image_size: tuple[int, int],
        resize: str,
        threads: int,
        allow_private: bool = False,
        device: str | None = None,
    ) -> None:
        self.places, self.image_size, self.threads = places, image_size, threads
        self.allow_private, self.device = allow_private, device
        # Fetched bytes or errors, until their group is yielded: no URL is requested twice.
        self._fetched: dict[int, bytes | UserError] = {}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
        def pixels(contents: tf.Tensor) -> tf.Tensor:
            return decode.decode(contents, *image_size, resize)

        self._pixels = pixels

    def groups(self, batch_size: int, first: int = 0) -> Iterator[ImageGroup]:
        """Yields groups of `batch_size` images from place `first` on, at the end fewer.

        Also fewer at the end of each `flush_interval`, so that unreadable images don't delay
        others; more where a file that failed in the pipeline can be read the second time.
        """
        for numbers, images in self._read_batches(batch_size, first):
            stop = int(numbers[-1]) + 1
            if stop > first:
                yield self._group(first, stop, numbers[: len(images)].numpy(), images)
                first = stop

    def _read_batches(self, batch_size: int, first: int) -> Any:
        """Returns batches of numbers, int64 [n], and their images.

        After each interval comes the number of its last place, without an image.
        """
        length, count = flush_interval(batch_size), len(self.places)

        def plan(start: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, ...]:
            paths = tf.numpy_function(self._encoded_paths, [start, stop], tf.string)
            return tf.range(start, stop), tf.ensure_shape(paths, [None])

        def example(number: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return number, self._pixels(self._contents(number, path))

        def read(place: tf.Tensor) -> tf.data.Dataset:
            start = tf.maximum(place * length, first)
            stop = tf.minimum((place + 1) * length, count)
            chunks = tf.data.Dataset.range(start, stop, batch_size)
            chunks = chunks.map(lambda at: plan(at, tf.minimum(at + batch_size, stop)))
            images = chunks.prefetch(1).unbatch()
            images = images.map(example, IMAGES_PER_THREAD * self.threads, deterministic=True)
            last = (stop[None] - 1, tf.zeros([0, *self.image_size, 3], tf.uint8))
            end = tf.data.Dataset.from_tensors(last)
            return images.ignore_errors().batch(batch_size).concatenate(end)

        dataset = tf.data.Dataset.range(first // length, -(-count // length)).flat_map(read)
        dataset = dataset.with_options(dataset_options(self.threads))
        if self.device:
            return dataset.apply(
                tf.data.experimental.prefetch_to_device(self.device, PREFETCHED_BATCHES)
            )
        return dataset.prefetch(PREFETCHED_BATCHES)

    def _encoded_paths(self, start: int, stop: int) -> np.ndarray:
        """Returns the paths of places, empty for URLs and what is no regular file of usual size.

        None is opened: a named pipe would wait for a writer that never comes.
        """
        places = self.places[start:stop]
        files = [p if not fetch.is_url(p) and _is_readable(p) else "" for p in places]
        return np.array(list(map(os.fsencode, files)), object)

    def _contents(self, number: tf.Tensor, path: tf.Tensor) -> tf.Tensor:
        """Returns the encoded bytes; empty ones, which no decoder accepts, where there are none."""

        def fetch_url() -> tf.Tensor:
            contents = tf.numpy_function(self._bytes_or_empty, [number], tf.string)
            return tf.ensure_shape(contents, [])

        return tf.cond(path == b"", fetch_url, lambda: tf.io.read_file(path))

    def _bytes_or_empty(self, number: int) -> bytes:
        try:
            return self._bytes(int(number))
        except (OSError, UserError):  # the reason is found by `_read_again`
            return b""

    def _bytes(self, number: int) -> bytes:
        place = self.places[number]
        if not fetch.is_url(place):
            return read_bytes(place)
        if number not in self._fetched:
            try:
                self._fetched[number] = fetch.fetch(place, allow_private=self.allow_private)
            except UserError as error:
                self._fetched[number] = error
        outcome = self._fetched[number]
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def _group(self, first: int, stop: int, numbers: np.ndarray, images: Any) -> ImageGroup:
        """Builds the group of places first to stop - 1, of which these numbers have images."""
        problems: list[str | None] = [None] * (stop - first)
        late = {}
        for number in np.setdiff1d(np.arange(first, stop), numbers).tolist():
            image, problems[number - first] = self._read_again(number)
            if image is not None:
                late[number] = image
        if late:
            places = np.searchsorted(numbers, list(late))
            images = np.insert(np.asarray(images), places, np.stack(list(late.values())), axis=0)
        for number in list(self._fetched):
            if number < stop:
                del self._fetched[number]
        return ImageGroup(self.places[first:stop], problems, images)

    def _read_again(self, number: int) -> tuple[np.ndarray | None, str | None]:
        """Returns the image or the problem, which the pipeline does not report.

        The file may have become readable in the meantime.
        """
        place = self.places[number]
        try:
            return self._pixels(self._bytes(number)).numpy(), None
        except OSError as error:
            return None, f"can't be read: {error.strerror or error}"
        except UserError as error:
            return None, str(error).removeprefix(f"{place}: ")
        except tf.errors.OpError as error:
            return None, decode.reason(error)


def _is_readable(path: str) -> bool:
    try:
        require_file_size(os.path.getsize(path))
    except OSError:
        return False
    return os.path.isfile(path)
