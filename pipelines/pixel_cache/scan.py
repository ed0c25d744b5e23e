"""Looks at every image before training: what can't be read or decoded is named and left out.

It decodes as training will, with the same definition, so that nothing that passes here fails there.
What it has decoded can be kept: `pixel_cache` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.files import write_csv
from pipelines.decode import exif, formats
from pipelines.decode.decode import reason
from pipelines.pixel_cache.stamps import of_system, stamp
from pipelines.sources.examples import SPLITS, Examples, read
from pipelines.sources.reader import IMAGES_PER_THREAD, dataset_options, make_reader

COLUMNS = ("path", "reason")
_BATCH = 64  # images that are passed on at a time,
_BATCH_BYTES = 1 << 24  # or fewer where they are large
_FINGERPRINTS = 2**63 - 1  # as many as there are

Decode = Callable[[tf.Tensor], tf.Tensor]
Keep = Callable[[np.ndarray, "ImageFacts"], None]


@dataclass(frozen=True)
class Broken:
    """An example that can't be used: its index, where it is, and why in a few words.

    lasting: it lies in the file's contents, and not in the system's way to them.
    """

    index: int
    path: str
    reason: str
    lasting: bool = True


@dataclass(frozen=True)
class ImageFacts:
    """What the look at n sound images found.

    pixels: uint8 [n, height, width, 3], 0…255.
    orientations: int32 [n], 1…8, as EXIF has it; the pixels are upright already.
    fingerprints: int64 [n], 0 or more, of the encoded bytes. FarmHash64: it tells changed files and
      copies, by chance alone never two others, but is no shield against somebody who forges them.
    """

    pixels: np.ndarray
    orientations: np.ndarray
    fingerprints: np.ndarray


def look(
    examples: Examples,
    decode: Decode,
    threads: int,
    progress: Callable[[int], None] | None = None,
    keep: Keep | None = None,
    begin: Callable[[], None] | None = None,
) -> list[Broken]:
    """Reads and decodes every example once, in parallel.

    Args:
      examples: all parts together.
      decode: string scalar -> uint8 [height, width, 3], in graph operations; raises where it can't.
      threads: how many decode.
      progress: called now and then with the number of sound images so far.
      keep: called with the numbers of some sound examples, int32 [n], and what was found there,
        until every sound one has been its turn, in any order.
      begin: called when all is made ready, before the first file is opened.

    Returns:
      The broken ones in their order.
    """
    faults = stamp(examples.paths, examples.offsets, examples.lengths)[1]
    broken = [Broken(i, examples.name(i), why, lasting=False) for i, why in faults.items()]
    rest = np.setdiff1d(np.arange(len(examples)), np.array(list(faults), dtype=np.int64))
    sound = np.zeros(len(examples), dtype=bool)
    count = 0
    batches = _sound(examples, rest, decode, threads, keep is not None)
    if begin:
        begin()
    for numbers, *facts in batches:
        sound[numbers] = True
        count += len(numbers)
        if keep:
            keep(numbers, ImageFacts(*facts))
        if progress:
            progress(count)
    for index in rest[~sound[rest]]:
        # The pipeline says only which; these few are asked again for why.
        fault = _again(examples, int(index), decode, keep)
        broken += [fault] if fault else []
    return sorted(broken, key=lambda one: one.index)


def _sound(
    examples: Examples, numbers: np.ndarray, decode: Decode, threads: int, whole: bool
) -> Any:
    """Batches of the numbers whose image can be decoded, with their facts where `whole`."""
    if not len(numbers):
        return []  # without half a second for a program that nothing goes through
    fetch = make_reader(examples)

    def example(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        contents = fetch(number)
        if whole:
            return number, *_facts(contents, decode)
        # One pixel is passed on: what nobody asks for would be optimised away.
        return number, decode(contents)[0, 0, 0]

    dataset = tf.data.Dataset.from_tensor_slices(numbers.astype(np.int32))
    dataset = dataset.map(example, IMAGES_PER_THREAD * threads, deterministic=False).ignore_errors()
    if not whole:
        dataset = dataset.map(lambda number, _: (number,))
    size = np.prod(dataset.element_spec[1].shape) if whole else 1
    dataset = dataset.batch(int(max(1, min(_BATCH, _BATCH_BYTES // size))))
    return dataset.prefetch(1).with_options(dataset_options(threads)).as_numpy_iterator()


def _facts(contents: tf.Tensor, decode: Decode) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    pixels = decode(contents)
    # One after the other: what fails ends all beside it, and tf.data would take the cancellation of
    # the one for the end of the pipeline instead of the other's error for that of an image.
    with tf.control_dependencies([pixels]):
        contents = tf.identity(contents)
    orientation = tf.cond(
        formats.is_jpeg(contents), lambda: exif.in_jpeg(contents), lambda: _in_others(contents)
    )
    return pixels, orientation, tf.strings.to_hash_bucket_fast(contents, _FINGERPRINTS)


@exif.apart(exif.TEXT)
def _in_others(contents: tf.Tensor) -> tf.Tensor:
    """int32 scalar 1…8: the orientation that an image asks for which is no JPEG."""

    def begins(form: formats.ImageFormat) -> tf.Tensor:
        return tf.strings.substr(contents, form.magic_at, len(form.magic)) == form.magic

    searches = [
        (begins(formats.OTHERS["PNG"]), lambda: exif.in_png(contents)),
        (begins(formats.OTHERS["WebP"]), lambda: exif.in_webp(contents)),
    ]
    return tf.case(searches, default=lambda: tf.constant(1))


def _again(examples: Examples, index: int, decode: Decode, keep: Keep | None) -> Broken | None:
    """Why an example can't be used; None, and it is kept, where it can after all."""
    try:
        facts = _facts(tf.constant(read(examples, index)), decode)
    except OSError as error:
        # Without a number it is ours: the file is too short, and will stay so.
        return Broken(index, examples.name(index), of_system(error), error.errno is None)
    except tf.errors.OpError as error:
        return Broken(index, examples.name(index), reason(error))
    if keep:
        keep(np.array([index], np.int32), ImageFacts(*(fact.numpy()[None] for fact in facts)))
    return None


def leave_out(
    examples: Examples, broken: list[Broken], report: str | os.PathLike[str], on_bad_image: str
) -> Examples:
    """Writes the report, then the examples without the broken ones.

    Args:
      on_bad_image: `skip`, or `fail` where a single broken image is to end the run.

    Raises:
      UserError: there are broken ones and they are not to be skipped; or a class loses all its
        images in a part.
    """
    write_report(report, broken)
    if broken and on_bad_image == "fail":
        first = broken[0]
        raise UserError(
            f"{len(broken)} of {len(examples)} images can't be used, the first is {first.path} "
            f"({first.reason}); all are listed in {os.fspath(report)}; mend or remove them, "
            "or use --on_bad_image=skip"
        )
    rest = examples.without(np.array([one.index for one in broken], dtype=np.int64))
    for split in SPLITS:
        counts = zip(
            examples.classes,
            examples.subset(split).class_counts(),
            rest.subset(split).class_counts(),
            strict=True,
        )
        for name, before, after in counts:
            if before and not after:
                raise UserError(
                    f"no image of class {name!r} in {split} can be used, of {before:,}; "
                    f"{os.fspath(report)} lists all with the reasons; replace them"
                )
    return rest


def write_report(path: str | os.PathLike[str], broken: list[Broken]) -> None:
    """Writes a CSV file with a row for each, the header row alone where none is."""
    write_csv(Path(path), COLUMNS, [{"path": one.path, "reason": one.reason} for one in broken])
