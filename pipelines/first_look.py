"""Looks at every picture before training: what can't be read or decoded is named and left out.

It decodes as training will, with the same definition, so that nothing that passes here fails there.
"""

from __future__ import annotations

import csv
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from engine.specs import UserError
from pipelines.batches import fetcher, options
from pipelines.decode import reason
from pipelines.examples import SPLITS, WHOLE_FILE, Examples, read

COLUMNS = ("path", "reason")
_BATCH = 256  # what is counted at a time


@dataclass(frozen=True)
class Broken:
    """An example that can't be used: its index, where it is, and why in a few words."""

    index: int
    path: str
    reason: str


def look(
    examples: Examples,
    decode: Callable[[tf.Tensor], tf.Tensor],
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> list[Broken]:
    """Reads and decodes every example once, in parallel.

    Args:
      examples: all parts together.
      decode: string scalar -> uint8 [height, width, 3], in graph operations; raises where it can't.
      threads: how many pictures are decoded at a time.
      progress: called now and then with the number of sound pictures so far.

    Returns:
      The broken ones in their order.
    """
    broken = _no_files(examples)
    rest = np.setdiff1d(np.arange(len(examples)), np.array(list(broken), dtype=np.int64))
    sound = np.zeros(len(examples), dtype=bool)
    count = 0
    for numbers in _sound(examples, rest, decode, threads):
        sound[numbers] = True
        count += len(numbers)
        if progress:
            progress(count)
    for index in rest[~sound[rest]]:
        # The pipeline says only which; these few are asked again for why.
        if why := _why(examples, int(index), decode):
            broken[int(index)] = why
    return [Broken(index, examples.name(index), broken[index]) for index in sorted(broken)]


def _sound(
    examples: Examples, numbers: np.ndarray, decode: Callable[[tf.Tensor], tf.Tensor], threads: int
) -> tf.data.NumpyIterator:
    """Batches of the numbers whose picture can be decoded; the others are missing."""
    fetch = fetcher(examples)

    def example(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # One pixel is passed on: what nobody asks for would be optimised away.
        return number, decode(fetch(number))[0, 0, 0]

    dataset = tf.data.Dataset.from_tensor_slices(numbers.astype(np.int32))
    dataset = dataset.map(example, num_parallel_calls=threads).ignore_errors()
    dataset = dataset.map(lambda number, _: number).batch(_BATCH)
    return dataset.with_options(options(threads)).as_numpy_iterator()


def _no_files(examples: Examples) -> dict[int, str]:
    """Index -> reason, of paths that lead to no file.

    They are told apart beforehand, since to read a named pipe would wait for ever.
    """
    broken: dict[int, str] = {}
    for index in np.flatnonzero(examples.lengths == WHOLE_FILE):
        try:
            if not stat.S_ISREG(os.stat(examples.paths[index]).st_mode):
                broken[int(index)] = "not a regular file"
        except OSError as error:
            broken[int(index)] = _of_system(error)
    return broken


def _why(examples: Examples, index: int, decode: Callable[[tf.Tensor], tf.Tensor]) -> str:
    """Why an example can't be used; empty where it can after all."""
    try:
        decode(tf.constant(read(examples, index)))
    except OSError as error:
        return _of_system(error)
    except tf.errors.OpError as error:
        return reason(error)
    return ""


def _of_system(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def leave_out(
    examples: Examples, broken: list[Broken], report: str | os.PathLike[str], on_bad_image: str
) -> Examples:
    """Writes the report, then the examples without the broken ones.

    Args:
      on_bad_image: `skip`, or `fail` where a single broken picture is to end the run.

    Raises:
      UserError: there are broken ones and they are not to be skipped; or a class loses all its
        pictures in a part.
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
            examples.part(split).class_counts(),
            rest.part(split).class_counts(),
            strict=True,
        )
        for name, before, after in counts:
            if before and not after:
                raise UserError(
                    f"none of the {before} images of class {name!r} in {split} can be used; "
                    f"they are listed in {os.fspath(report)} with the reasons; replace them"
                )
    return rest


def write_report(path: str | os.PathLike[str], broken: list[Broken]) -> None:
    """A CSV file with a row for each, the header row alone where none is; beside, then renamed."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, beside = tempfile.mkstemp(dir=folder, prefix=".bad_images-")
    try:
        os.fchmod(handle, 0o644)  # mkstemp gives the file to its owner alone
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((one.path, one.reason) for one in broken)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
