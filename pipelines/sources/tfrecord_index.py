"""Random access to TFRecord files, which have none: an index of where each image's bytes are.

The headers are walked once and the index is kept beside the files; from then on an example is
(file, offset, length), as a plain file is. Of a record only the few bytes that frame its features
are read: the images themselves stay on the disk.

Sources: the record framing is described in `tensorflow/core/lib/io/record_writer.h`; features are
`tensorflow/core/example/example.proto` in protobuf's wire format.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.core.errors import UserError
from engine.core.files import open_atomic
from engine.core.text import printable
from pipelines.sources import archives

_HEADER = struct.Struct("<QI")  # length, checksum of its 8 bytes
_FOOTER_BYTES = 4  # checksum of the data
_FORMAT = 1  # of the index; to be raised when its meaning changes


class RecordIndex(NamedTuple):
    """N records in the order of their files.

    files: int32 [N], index into the list of files.
    places: int64 [N], the record's number in its file.
    offsets, lengths: int64 [N], bytes of the encoded image in its file.
    labels: int64 [N].
    """

    files: np.ndarray
    places: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


_KINDS = (np.int32, np.int64, np.int64, np.int64, np.int64)


class _BadRecordError(Exception):
    """The bytes do not mean what they should."""


def index(files: list[str], image: str, label: str, cache: str) -> RecordIndex:
    """Where the images are in record files, from the file `cache` where it still fits.

    Args:
      files: paths of TFRecord files, not compressed.
      image: name of the feature with the encoded image, one string.
      label: name of the feature with the label, one integer.
      cache: path of the index; written when it is missing or does not fit the sizes, modification
        times and features any more. Nothing happens where it can't be written.

    Raises:
      UserError: a file can't be read or holds something else; its name and the offset are named.
    """
    try:
        stats = [os.stat(file) for file in files]
    except OSError as error:
        raise _unreadable(error) from None
    marks = [
        (os.path.basename(file), status.st_size, status.st_mtime_ns)
        for file, status in zip(files, stats, strict=True)
    ]
    text = json.dumps([_FORMAT, image, label, marks])
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint8)
    found = _load(cache, key, np.array([status.st_size for status in stats], dtype=np.int64))
    if found is None:
        found = _join([_scan(file, image.encode(), label.encode()) for file in files])
        _save(cache, key, found)
    return found


def _join(scans: list[np.ndarray]) -> RecordIndex:
    """int64 [n, 3] of each file -> the columns of all."""
    counts = [len(scan) for scan in scans]
    table = np.concatenate([np.zeros((0, 3), np.int64), *scans])
    return RecordIndex(
        files=np.repeat(np.arange(len(scans), dtype=np.int32), counts),
        places=np.concatenate([np.zeros(0, np.int64), *map(np.arange, counts)]).astype(np.int64),
        offsets=table[:, 0],
        lengths=table[:, 1],
        labels=table[:, 2],
    )


def _load(cache: str, key: np.ndarray, sizes: np.ndarray) -> RecordIndex | None:
    """The kept index, or None where it is missing, damaged or of other files."""
    try:
        with archives.opened(cache, most=os.path.getsize(cache)) as kept:
            if not np.array_equal(kept["key"], key):
                return None
            count = len(kept["files"])
            columns = zip(RecordIndex._fields, _KINDS, strict=True)
            found = RecordIndex(
                *(archives.column(kept, name, kind, count) for name, kind in columns)
            )
        inside = (found.files >= 0) & (found.offsets >= 0) & (found.lengths >= 0)
        inside &= found.lengths <= sizes[found.files] - found.offsets
    except Exception:
        return None
    return found if np.all(inside) else None


def _save(cache: str, key: np.ndarray, found: RecordIndex) -> None:
    # A read-only folder or a full disk: the next run builds the index again.
    with suppress(OSError), open_atomic(Path(cache), unique=True) as file:
        np.savez(file, key=key, **found._asdict())


def _scan(file: str, image: bytes, label: bytes) -> np.ndarray:
    """int64 [n, 3]: offset and length of the image, and the label, of each record of a file."""
    rows = []
    header = 0  # where the record begins, for the message
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return np.zeros((0, 3), np.int64)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for start, stop in _records(data):
                    rows.append(_example(data, start, stop, image, label))
                    header = stop + _FOOTER_BYTES
    except OSError as error:
        raise _unreadable(error) from None
    except _BadRecordError as error:
        raise UserError(
            f"{printable(file)}, record at byte {header}: {error}; "
            "prepare the data set again, or copy the file again"
        ) from None
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _unreadable(error: OSError) -> UserError:
    name = printable(str(error.filename))
    return UserError(f"{name} can't be read: {error.strerror}; prepare the data set again")


def _records(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """(start, stop) of each record's data: `length, crc of length, data, crc of data` in a row."""
    place = 0
    while place < len(data):
        if place + _HEADER.size > len(data):
            raise _BadRecordError(f"the file ends at byte {len(data)}, inside a header")
        length, checksum = _HEADER.unpack_from(data, place)
        if checksum != masked_crc32c(data[place : place + 8]):
            raise _BadRecordError("no TFRecord header: its checksum does not fit")
        start = place + _HEADER.size
        place = start + length + _FOOTER_BYTES
        if place > len(data):
            raise _BadRecordError(f"the file ends at byte {len(data)}, the record at byte {place}")
        yield start, start + length


def _example(
    data: mmap.mmap, start: int, stop: int, image: bytes, label: bytes
) -> tuple[int, int, int]:
    """Offset and length of the image and the label, of one serialised `tf.train.Example`."""
    offset = length = number = -1
    seen: set[bytes] = set()
    for features in _fields(data, start, stop, 1):
        for entry in _fields(data, *features, 1):
            name = next((data[a:b] for a, b in _fields(data, *entry, 1)), b"")
            if name not in (image, label):
                continue
            seen.add(name)
            for feature in _fields(data, *entry, 2):
                if name == image:
                    offset, length = _only_bytes(data, *feature)
                else:
                    number = _only_integer(data, *feature)
    if missing := {image, label} - seen:
        raise _BadRecordError(f"no feature {min(missing).decode()!r} in it")
    if offset < 0:
        raise _BadRecordError(f"feature {image.decode()!r} holds no image")
    return offset, length, number


def _only_bytes(data: mmap.mmap, start: int, stop: int) -> tuple[int, int]:
    """(offset, length) of the one string in a `Feature` with a `BytesList`, its field 1."""
    values = [value for part in _fields(data, start, stop, 1) for value in _fields(data, *part, 1)]
    if len(values) != 1:
        raise _BadRecordError(f"{len(values)} strings where one image should be")
    return values[0][0], values[0][1] - values[0][0]


def _only_integer(data: mmap.mmap, start: int, stop: int) -> int:
    """The one number in a `Feature` with an `Int64List`, its field 3, packed or not."""
    for begin, end in _fields(data, start, stop, 3):
        packed = list(_fields(data, begin, end, 1))
        begin, end = packed[0] if packed else (begin + 1, end)
        if begin < end:
            number, after = _varint(data, begin, end)
            if after == end:
                return number - 2**64 if number >= 2**63 else number
    raise _BadRecordError("not one integer where the label should be")


def _fields(data: mmap.mmap, start: int, stop: int, wanted: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the contents of each length-delimited field of that number."""
    while start < stop:
        tag, start = _varint(data, start, stop)
        kind = tag & 7
        if kind == 2:
            length, start = _varint(data, start, stop)
            end = start + length
        elif kind == 0:
            _, end = _varint(data, start, stop)
        elif kind in (1, 5):
            end = start + (8 if kind == 1 else 4)
        else:
            raise _BadRecordError("no tf.train.Example: unknown wire type")
        if end > stop:
            raise _BadRecordError("no tf.train.Example: a field is longer than the record")
        if kind == 2 and tag >> 3 == wanted:
            yield start, end
        start = end


def _varint(data: mmap.mmap, start: int, stop: int) -> tuple[int, int]:
    """A number of up to ten groups of 7 bits, the lowest first, and the place behind it."""
    value = shift = 0
    for place in range(start, min(stop, start + 10)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place + 1
        shift += 7
    raise _BadRecordError("no tf.train.Example: a number does not end")


@functools.cache
def _crc_table() -> tuple[int, ...]:
    """Castagnoli's polynomial, reflected (RFC 3720, appendix B.4)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as record files have it, so that a CRC of CRCs is no CRC."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
