"""What is known of the images in a pixel file, row by row, and how that is kept on the disk."""

from __future__ import annotations

import dataclasses
import os
from typing import BinaryIO

import numpy as np

from pipelines.decode import headers
from pipelines.pixel_cache.stamps import BYTES
from pipelines.sources import archives
from pipelines.sources.examples import Examples

FORMAT = 2  # of the file; to be raised when its meaning changes
FACTS = ("fingerprints", "orientations", "headers")  # what the first look finds of an image
_MOST_BYTES = 1 << 30  # of an index unpacked: millions of images take less


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """N images, a row each.

    definition: what made pixels of the bytes, as JSON text; rows of another one are of no use.
    stamps: S16 [N], as from `stamps.stamp`; all zero where nothing lasting is known.
    fingerprints: int64 [N], of the encoded bytes, as from `first_look.look`.
    orientations: uint8 [N], 1…8 as in EXIF; 0 where the image is broken.
    headers: headers.COLUMN [N], blank where none was read.
    reasons: str [N], why the image is broken; '' where it is sound.
    """

    definition: str
    stamps: np.ndarray
    fingerprints: np.ndarray
    orientations: np.ndarray
    headers: np.ndarray
    reasons: np.ndarray

    def __len__(self) -> int:
        return len(self.stamps)

    def facts(self) -> tuple[np.ndarray, ...]:
        """The columns of `FACTS`."""
        return tuple(getattr(self, name) for name in FACTS)

    def find(self, stamps: np.ndarray) -> np.ndarray:
        """int64 [n]: the row of each stamp (S16 [n]), -1 where there is none."""
        if not len(self):
            return np.full(len(stamps), -1)
        order = np.argsort(self.stamps)
        place = np.searchsorted(self.stamps, stamps, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        return np.where((self.stamps[rows] == stamps) & (stamps != b""), rows, -1)


def blank(definition: str, count: int) -> Index:
    """An index of `count` rows of which nothing is known yet."""
    return Index(
        definition,
        stamps=np.zeros(count, f"S{BYTES}"),
        fingerprints=np.zeros(count, np.int64),
        orientations=np.zeros(count, np.uint8),
        headers=np.zeros(count, headers.COLUMN),
        reasons=np.full(count, "", dtype=object),
    )


def save(file: BinaryIO, index: Index, examples: Examples) -> None:
    """Writes the index, and where each row's image lies (`examples`, N of them)."""
    broken = np.flatnonzero(index.reasons != "")
    np.savez_compressed(
        file,
        format=np.array(FORMAT),
        definition=np.array(index.definition),
        stamps=index.stamps,
        fingerprints=index.fingerprints,
        orientations=index.orientations,
        headers=index.headers,
        broken=broken,
        reasons=index.reasons[broken].astype(np.str_),
        paths=np.frombuffer(b"\0".join(examples.encoded_paths()), np.uint8),
        offsets=examples.offsets,
        lengths=examples.lengths,
    )


def load(path: str | os.PathLike[str], definition: str) -> Index | None:
    """The index in a file; None where it is damaged, or of another definition or format."""
    try:
        with archives.open_archive(path, _MOST_BYTES) as kept:
            if kept["format"] != FORMAT or str(kept["definition"]) != definition:
                return None
            stamps = archives.read_column(kept, "stamps", f"S{BYTES}")
            index = blank(definition, len(stamps))
            index.stamps[:] = stamps
            for name in FACTS:
                mine = getattr(index, name)
                mine[:] = archives.read_column(kept, name, mine.dtype, len(index))
            broken, reasons = archives.read_column(kept, "broken", np.int64), kept["reasons"]
            if reasons.dtype.kind != "U" or reasons.shape != broken.shape:
                raise ValueError(f"reasons is {reasons.dtype} {reasons.shape}")
            index.reasons[broken] = reasons.astype(object)
    except Exception:
        return None
    sound = np.all(index.orientations <= 8) and headers.are_sound(index.headers)
    return index if sound else None


def load_places(path: str | os.PathLike[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths, offsets and lengths of the images, in the order of the rows.

    Raises:
      OSError: the file is gone or damaged.
    """
    try:
        with archives.open_archive(path, _MOST_BYTES) as kept:
            paths = kept["paths"].tobytes().split(b"\0") if len(kept["stamps"]) else []
            offsets, lengths = (
                archives.read_column(kept, name, np.int64, len(paths))
                for name in ("offsets", "lengths")
            )
            if len(kept["stamps"]) != len(paths):
                raise ValueError(f"{len(paths)} paths for {len(kept['stamps'])} rows")
            return [os.fsdecode(path) for path in paths], offsets, lengths
    except Exception as error:
        raise OSError(f"{os.fspath(path)} can't be read: {error}") from None
