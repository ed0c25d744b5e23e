"""What is known of each cached image: whether its file is unchanged, and how it decoded."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from pipelines.decode import headers
from pipelines.sources import archives
from pipelines.sources.examples import WHOLE_FILE, Examples, require_file_size

FORMAT = 5  # of the index file; raise it when the meaning changes
MISSING = os.strerror(errno.ENOENT).lower()  # the reason given for a file that does not exist
STAMP = np.dtype("S16")
# Of an image: its stamp; when its file last changed in any way, in nanoseconds (ctime); where its
# bytes are in its file, as in `Examples`; FarmHash64 of them; its EXIF orientation, 1 to 8, though
# the pixels are upright already, or 0 for a broken image; its header, blank where none was read;
# the checksum of its pixels.
FACTS = np.dtype(
    [
        ("stamp", STAMP),
        ("changed", np.int64),
        ("offset", np.int64),
        ("length", np.int64),
        ("fingerprint", np.int64),
        ("orientation", np.uint8),
        ("header", headers.COLUMN),
        ("checksum", np.uint64),
    ]
)
_MAX_BYTES = 1 << 30  # of an unpacked index; millions of images take less
_STATUS = struct.Struct("<qq")  # size, modification time in nanoseconds
_RANGE = struct.Struct("<qq")  # offset, length
_REMEMBERED_FILES = 4096  # record files hold many examples each


@dataclasses.dataclass(frozen=True, eq=False)
class CacheIndex:
    """What is known of N images.

    Attributes:
      definition: what made pixels of the bytes, as JSON; rows of another definition are useless.
      facts: FACTS [N]; the stamp is all zero where the next run has to look again.
      reasons: str [N], why an image is broken, '' where it is not.
      encoded_paths: of the images' files, joined by zero bytes.
    """

    definition: str
    facts: np.ndarray
    reasons: np.ndarray
    encoded_paths: bytes = b""

    @classmethod
    def of(
        cls, definition: str, images: Examples, stamps: np.ndarray, changed: np.ndarray
    ) -> CacheIndex:
        """Returns an index of images that are not decoded yet; see `stamp_images`."""
        facts = np.zeros(len(images), FACTS)
        facts["stamp"], facts["changed"] = stamps, changed
        facts["offset"], facts["length"] = images.offsets, images.lengths
        reasons = np.full(len(images), "", dtype=object)
        return cls(definition, facts, reasons, b"\0".join(images.encoded_paths()))

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def broken(self) -> np.ndarray:
        """bool [N]."""
        return self.reasons != ""

    def find(self, images: np.ndarray) -> np.ndarray:
        """Returns the row of each unchanged image (FACTS [n]), int64 [n], -1 for none."""
        rows = self.find_stamps(images["stamp"])
        return np.where(self.facts["changed"][rows] == images["changed"], rows, -1)

    def find_stamps(self, stamps: np.ndarray) -> np.ndarray:
        """Returns the row of each stamp (STAMP [n]), int64 [n], -1 where there is none.

        Size and time of such a file are as they were, which a tool that restores times can achieve
        with other contents.
        """
        own = self.facts["stamp"]
        order = np.argsort(own)
        positions = np.searchsorted(own, stamps, sorter=order)
        rows = order[np.minimum(positions, len(order) - 1)]
        return np.where((own[rows] == stamps) & (stamps != b""), rows, -1)

    def paths(self) -> list[str]:
        """Returns the path of each image's file."""
        return [os.fsdecode(path) for path in self.encoded_paths.split(b"\0")]

    def save(self, file: BinaryIO) -> None:
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            definition=np.array(self.definition),
            facts=self.facts,
            reasons=np.frombuffer(b"\0".join(map(os.fsencode, self.reasons)), np.uint8),
            paths=np.frombuffer(self.encoded_paths, np.uint8),
        )


def load(path: str | os.PathLike[str], definition: str) -> CacheIndex | None:
    """Reads an index; None where it is damaged or of another definition or format."""
    try:
        with archives.open_archive(path, _MAX_BYTES) as arrays:
            if arrays["format"] != FORMAT or str(arrays["definition"]) != definition:
                return None
            facts = archives.read_column(arrays, "facts", FACTS)
            encoded_reasons = archives.read_column(arrays, "reasons", np.uint8).tobytes()
            paths = archives.read_column(arrays, "paths", np.uint8).tobytes()
        reasons = np.array([os.fsdecode(text) for text in encoded_reasons.split(b"\0")], object)
        valid = len(facts) == len(reasons) == paths.count(b"\0") + 1
        valid &= bool(np.all(facts["orientation"] <= 8)) and headers.are_valid(facts["header"])
        return CacheIndex(definition, facts, reasons, paths) if valid else None
    except Exception:
        return None


def stamp_images(
    paths: Sequence[str] | np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Digests (absolute path, size, modification time, offset, length) of each image.

    No file is opened: to open a named pipe would wait for a writer that never comes.

    Args:
      paths, offsets, lengths: N of each, as in `Examples`.

    Returns:
      STAMP [N], all zero where there is no readable file; when each file last changed, int64 [N],
      nanoseconds; and index -> reason for those without.
    """
    status_of = functools.lru_cache(_REMEMBERED_FILES)(_status)
    digests, changed, faults = [], np.zeros(len(paths), np.int64), {}
    ranges = zip(offsets.tolist(), lengths.tolist(), strict=True)
    for number, (path, byte_range) in enumerate(zip(paths, ranges, strict=True)):
        try:
            text, changed[number], size = status_of(path)
            if byte_range[1] == WHOLE_FILE:
                require_file_size(size)
            text += _RANGE.pack(*byte_range)
            digests.append(hashlib.blake2b(text, digest_size=STAMP.itemsize).digest())
        except OSError as error:
            faults[number] = system_reason(error)
            digests.append(bytes(STAMP.itemsize))
    return np.frombuffer(b"".join(digests), dtype=STAMP), changed, faults


def _status(path: str) -> tuple[bytes, int, int]:
    """Returns what a stamp takes from the file system, when the file last changed, and its size.

    Raises:
      OSError: there is no regular file, or it may not be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # `abspath` takes longer than all the rest, and nearly every path is absolute already.
    absolute = path if path.startswith("/") else os.path.abspath(path)
    text = os.fsencode(absolute) + b"\0" + _STATUS.pack(status.st_size, status.st_mtime_ns)
    return text, status.st_ctime_ns, status.st_size


def system_reason(error: OSError) -> str:
    """Returns what the operating system says, in the style of the other reasons."""
    return error.strerror.lower() if error.strerror else str(error)
