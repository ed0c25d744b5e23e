"""What is to be looked at, image by image, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.decode import decode
from pipelines.pixel_cache.pixel_index import Index
from pipelines.pixel_cache.scan import Broken
from pipelines.pixel_cache.stamps import stamp
from pipelines.pixel_cache.store import CacheLocation, Pixels
from pipelines.sources.examples import Examples


class Seen(NamedTuple):
    """Examples, their `rows` filled in; the broken ones among them; the pixels, if kept."""

    examples: Examples
    broken: list[Broken]
    pixels: Pixels | None


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """N examples of M different images, and where their pixels may go.

    numbers: int64 [N], the image of each example; -1 where there is no file.
    firsts: int64 [M], an example of each image.
    stamps: S16 [M], of each image.
    faults: index -> reason of the examples without a file.
    shape: height, width and 3.
    """

    examples: Examples
    numbers: np.ndarray
    firsts: np.ndarray
    stamps: np.ndarray
    faults: dict[int, str]
    shape: tuple[int, int, int]
    resize: str
    threads: int
    say: Callable[[str], None]
    place: CacheLocation

    @property
    def row_bytes(self) -> int:
        height, width, channels = self.shape
        return height * width * channels

    @property
    def nbytes(self) -> int:
        return len(self.firsts) * self.row_bytes

    @property
    def fits(self) -> bool:
        return self.nbytes <= self.place.memory

    @property
    def definition(self) -> str:
        """What makes pixels of bytes, TensorFlow's version with it: its decoders may change."""
        height, width, _ = self.shape
        parts = {"height": height, "width": width, "resize": self.resize}
        return json.dumps({**parts, "decode": decode.VERSION, "tensorflow": tf.__version__})

    def decode(self, contents: tf.Tensor) -> tf.Tensor:
        """string scalar -> uint8 [height, width, 3]."""
        height, width, _ = self.shape
        return decode.decode(contents, height, width, self.resize)

    def seen(self, index: Index, rows: np.ndarray, pixels: Pixels | None) -> Seen:
        """What came of it.

        Args:
          index: what is known of each row.
          rows: int64 [M], each image's row in the index, and in the pixels if there are any.
        """
        reasons = dict(self.faults)
        present = np.flatnonzero(self.numbers >= 0)
        places = rows[self.numbers[present]]
        found = index.reasons[places]
        broken = found != ""
        reasons.update(zip(present[broken].tolist(), found[broken], strict=True))
        column = np.full(len(self.examples), -1)
        if pixels is not None:
            column[present] = np.where(broken, -1, places)
        named = [Broken(i, self.examples.name(i), reasons[i]) for i in sorted(reasons)]
        return Seen(self.examples.replace(rows=column), named, pixels)


def plan(
    examples: Examples,
    size: tuple[int, int],
    resize: str,
    threads: int,
    say: Callable[[str], None],
    place: CacheLocation,
) -> Job:
    """Stamps every file, and opens none. An example that stands twice is one image.

    Args:
      size: height and width of the pixels.
      resize: as in `decode.decode`.
      threads: how many images are decoded at a time.
      say: takes one line for the user.
    """
    stamps, faults = stamp(examples.paths, examples.offsets, examples.lengths)
    present = np.flatnonzero(stamps != b"")
    _, firsts, inverse = np.unique(stamps[present], return_index=True, return_inverse=True)
    order = np.argsort(firsts)  # images are numbered as they first come, not by their stamps
    numbers = np.full(len(examples), -1)
    numbers[present] = np.argsort(order)[inverse.reshape(-1)]
    firsts = present[firsts[order]]
    height, width = size
    return Job(
        examples,
        numbers=numbers,
        firsts=firsts,
        stamps=stamps[firsts],
        faults=faults,
        shape=(height, width, 3),
        resize=resize,
        threads=threads,
        say=say,
        place=place,
    )
