"""Scans all images before training: what can't be read or decoded is named.

It decodes as training will, so nothing that passes here fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipelines.decode.bounds import Decoded
from pipelines.decode.decode import reason
from pipelines.pixel_cache.index import stamp_images, system_reason
from pipelines.sources.examples import Examples, read
from pipelines.sources.reader import IMAGES_PER_THREAD, dataset_options, make_reader

_BATCH = 64  # images that are collected at a time,
_BATCH_BYTES = 1 << 24  # or fewer where they are large
_FINGERPRINTS = 2**63 - 1  # the number of hash buckets

Decode = Callable[[tf.Tensor], Decoded]
Collect = Callable[[np.ndarray, "ImageFacts"], None]


@dataclass(frozen=True)
class BrokenImage:
    """An example that can't be used.

    Attributes:
      index: its number.
      path: where it is, for messages.
      reason: a few words.
      permanent: the reason lies in the file's contents, not in the system's access to them.
    """

    index: int
    path: str
    reason: str
    permanent: bool = True


@dataclass(frozen=True)
class ImageFacts:
    """What decoding n images gave.

    Attributes:
      pixels: uint8 [n, height, width, 3], 0 to 255.
      orientations: int32 [n], 1 to 8, as in EXIF; the pixels are upright already.
      fingerprints: int64 [n], 0 or more, FarmHash64 of the encoded bytes: finds changed files and
        copies, but is no protection against forgery.
    """

    pixels: np.ndarray
    orientations: np.ndarray
    fingerprints: np.ndarray


def scan_images(
    examples: Examples, decode: Decode, threads: int, collect: Collect
) -> list[BrokenImage]:
    """Reads and decodes every example once, in parallel.

    Args:
      examples: of all splits together.
      decode: string scalar -> uint8 [height, width, 3] and the orientation, in graph operations;
        raises where it can't. See `decode.decode_oriented`.
      threads: how many decode.
      collect: called with the numbers of some examples, int32 [n], and what decoding them gave;
        each example that decodes comes once, in any order.

    Returns:
      The broken ones in order.
    """
    faults = stamp_images(examples.paths, examples.offsets, examples.lengths)[-1]
    broken = [BrokenImage(n, examples.name(n), why, permanent=False) for n, why in faults.items()]
    rest = np.setdiff1d(np.arange(len(examples)), np.array(list(faults), dtype=np.int64))
    decoded = np.zeros(len(examples), dtype=bool)
    for numbers, *facts in _read_all(examples, rest, lambda c: _facts(c, decode), threads):
        decoded[numbers] = True
        collect(numbers, ImageFacts(*facts))
    for index in rest[~decoded[rest]]:
        # The pipeline only says which failed; these few are decoded again for the reason.
        fault = _decode_again(examples, int(index), decode, collect)
        broken += [fault] if fault else []
    return sorted(broken, key=lambda image: image.index)


def fingerprint_images(examples: Examples, threads: int) -> np.ndarray:
    """Returns the fingerprints of encoded images, int64 [N], as `ImageFacts`; -1 if unreadable."""
    fingerprints = np.full(len(examples), -1)
    every = np.arange(len(examples))
    for numbers, values in _read_all(examples, every, lambda c: (_fingerprint(c),), threads):
        fingerprints[numbers] = values
    return fingerprints


def _read_all(
    examples: Examples,
    numbers: np.ndarray,
    facts_of: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    threads: int,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields, in batches, the numbers of the images whose bytes have facts, and these facts."""
    if not len(numbers):
        return  # saves half a second for a pipeline without input
    read_bytes = make_reader(examples)

    def read_example(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return number, *facts_of(read_bytes(number))

    dataset = tf.data.Dataset.from_tensor_slices(numbers.astype(np.int32))
    dataset = dataset.map(read_example, IMAGES_PER_THREAD * threads, deterministic=False)
    dataset = dataset.ignore_errors()
    size = np.prod(dataset.element_spec[1].shape)
    dataset = dataset.batch(int(max(1, min(_BATCH, _BATCH_BYTES // size))))
    yield from dataset.prefetch(1).with_options(dataset_options(threads)).as_numpy_iterator()


def _facts(contents: tf.Tensor, decode: Decode) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return *decode(contents), _fingerprint(contents)


def _fingerprint(contents: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(contents, _FINGERPRINTS)


def _decode_again(
    examples: Examples, index: int, decode: Decode, collect: Collect
) -> BrokenImage | None:
    """Returns why an example can't be used; None, and it is collected, if it can be after all."""
    try:
        facts = _facts(tf.constant(read(examples, index)), decode)
    except OSError as error:
        # Without a number the error is our own: the file is too short, and will stay so.
        permanent = error.errno is None
        return BrokenImage(index, examples.name(index), system_reason(error), permanent)
    except tf.errors.OpError as error:
        return BrokenImage(index, examples.name(index), reason(error))
    collect(np.array([index], np.int32), ImageFacts(*(fact.numpy()[None] for fact in facts)))
    return None
