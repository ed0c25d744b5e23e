"""The index of a data set: for every example where its bytes are, its label and its split.

Nothing is decoded: an example is `length` bytes at `offset` in the file `path` for every source. So
folders, manifests and record files share one shuffling, one cache and one scan.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from engine.core.errors import UserError
from engine.core.text import byte_size, printable

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# What splits are called in folders, manifests and data sets of TFDS, the usual name first.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "val", "valid", "dev", "eval"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
WHOLE_FILE = -1
MAX_FILE_BYTES = 256 * 10**6  # of an image; the largest that may be decoded seldom take so many

_TYPES = {
    "paths": object,
    "offsets": np.int64,
    "lengths": np.int64,
    "labels": np.int32,
    "splits": np.int8,
    "groups": object,
    "keys": object,
    "rows": np.int64,
}


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """A file or folder that is not read, and why, as in `3 other than regular files`."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """N examples as columns; every column is an array [N].

    Attributes:
      paths: str; bytes that are no UTF-8 are surrogates (see `os.fsencode`).
      offsets: int64, first byte of the encoded image in its file.
      lengths: int64, number of bytes, or -1 for the whole file (its offset is then 0).
      labels: int32, index into `classes`.
      splits: int8, index into `SPLITS`.
      groups: str; examples of one group stay in one split. '' is no group.
      keys: str, a name that doesn't depend on the data set's folder; splits depend on it.
      rows: int64, index of its pixels in the pixel cache of the run; -1 for none.
      classes: names of the labels.
      passed_over: what the source found and did not list.
    """

    paths: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    groups: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    classes: tuple[str, ...]
    passed_over: tuple[PassedOver, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.paths)
        for name, kind in _TYPES.items():
            column = np.asarray(getattr(self, name), dtype=kind)
            if column.shape != (count,):
                raise ValueError(f"{name} has shape {column.shape}; allowed: ({count},)")
            object.__setattr__(self, name, column)
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(f"a label lies outside 0 to {len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, split: str) -> Examples:
        """Returns the examples of `train`, `validation` or `test`, in their order."""
        return self.take(self.splits == SPLITS.index(split))

    def take(self, which: np.ndarray) -> Examples:
        """Returns the examples of a boolean mask, or of indices in their order."""
        return self.replace(**{name: getattr(self, name)[which] for name in _TYPES})

    def without(self, which: np.ndarray) -> Examples:
        """Returns all examples but those of a boolean mask or of indices."""
        keep = np.ones(len(self), dtype=bool)
        keep[np.asarray(which, dtype=None if len(which) else np.int64)] = False
        return self.take(keep)

    def replace(self, **columns: Any) -> Examples:
        """Returns the same examples with other columns."""
        return dataclasses.replace(self, **columns)

    def class_counts(self) -> tuple[int, ...]:
        """Returns the number of examples of each class, in the order of `classes`."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    def split_counts(self) -> tuple[int, ...]:
        """Returns the number of examples of each split, in the order of `SPLITS`."""
        return tuple(np.bincount(self.splits, minlength=len(SPLITS)).tolist())

    def encoded_paths(self) -> np.ndarray:
        """Returns paths as bytes objects, as TensorFlow takes names of any encoding."""
        encode = functools.cache(os.fsencode)  # record files have many examples each
        return _strings([encode(path) for path in self.paths])

    def name(self, index: int) -> str:
        """Names an example in a message: its path, and `@offset` inside a record file."""
        inside = "" if self.lengths[index] == WHOLE_FILE else f"@{self.offsets[index]}"
        return printable(self.paths[index]) + inside


def split_of(name: str) -> int | None:
    """Returns the split that a name means, in any case and with `_set` or not, None for none."""
    return SPLIT_NAMES.get(name.lower().removesuffix("_set"))


def as_printed(name: str) -> str:
    """Returns what names that look alike have in common: accents in one form, blanks merged."""
    return " ".join(unicodedata.normalize("NFC", printable(name)).split())


def from_columns(
    paths: Any,
    labels: Any,
    classes: tuple[str, ...],
    *,
    keys: Any,
    offsets: Any = None,
    lengths: Any = None,
    splits: Any = None,
    groups: Any = None,
    passed_over: Iterable[PassedOver] = (),
) -> Examples:
    """Builds examples from sequences; by default plain files, all for training, without groups.

    Args:
      classes: names as they are stored; the examples have them printable.

    Raises:
      UserError: two names of classes look alike.
    """
    count, shown = len(paths), {as_printed(name): name for name in reversed(classes)}
    for name in classes:
        if (other := shown[as_printed(name)]) != name:
            raise UserError(
                f"classes {other!a} and {name!a} look alike; give one of them another "
                "name, or both the same"
            )
    return Examples(
        paths=_strings(paths),
        offsets=np.zeros(count, np.int64) if offsets is None else offsets,
        lengths=np.full(count, WHOLE_FILE, np.int64) if lengths is None else lengths,
        labels=np.asarray(labels, dtype=np.int32),
        splits=np.full(count, TRAIN, np.int8) if splits is None else splits,
        groups=_strings([""] * count if groups is None else groups),
        keys=_strings(keys),
        rows=np.arange(count),
        classes=tuple(map(printable, classes)),
        passed_over=tuple(passed_over),
    )


def identity(examples: Examples) -> str:
    """Returns the number of examples and a digest of their keys and labels, not their contents."""
    digest = hashlib.blake2b(digest_size=8)
    for text in ("\0".join(examples.classes), "\0".join(examples.keys)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0\0")
    digest.update(examples.labels.tobytes())
    return f"{len(examples):,} ({digest.hexdigest()})"


def join(several: list[Examples]) -> Examples:
    """Concatenates examples with the same classes."""
    columns = {name: np.concatenate([getattr(one, name) for one in several]) for name in _TYPES}
    return several[0].replace(**columns)


def read(examples: Examples, index: int) -> bytes:
    """Reads the encoded bytes of one example.

    Raises:
      OSError: see `read_bytes`.
    """
    offset, length = int(examples.offsets[index]), int(examples.lengths[index])
    return read_bytes(examples.paths[index], offset, length)


def read_bytes(path: str, offset: int = 0, length: int = WHOLE_FILE) -> bytes:
    """Reads `length` bytes of a file from byte `offset` on, or all of them.

    Raises:
      OSError: the file can't be read, is no regular file, is too large, or ends too early.
    """
    with open_regular(path) as file:
        if length == WHOLE_FILE:
            require_file_size(os.fstat(file.fileno()).st_size)
        file.seek(offset)
        contents = file.read(length)
    if len(contents) < length:
        raise OSError(f"the file ends before byte {offset + length}")
    return contents


def require_file_size(size: int) -> None:
    """Refuses what would fill the memory: a film or an archive among images.

    Raises:
      OSError: there are more bytes than MAX_FILE_BYTES.
    """
    if size > MAX_FILE_BYTES:
        raise OSError(f"larger than {byte_size(MAX_FILE_BYTES)}")


def open_regular(path: str) -> BinaryIO:
    """Opens a file for reading.

    Raises:
      OSError: it can't be read, or is no regular file.
    """
    # Without O_NONBLOCK a named pipe would wait for a writer that never comes.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return open(descriptor, "rb")


def _strings(values: Any) -> np.ndarray:
    """Returns an array of objects; `np.array` would make another of equally long sequences."""
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column
