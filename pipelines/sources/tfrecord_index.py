"""Random access to TFRecord files by an index of where each image's bytes are.

The headers are read once and the index is cached beside the files; from then on an example is
(file, offset, length), like a plain file. Only the few bytes that frame a record's features are
read, not the images.

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

import numpy as np

from engine.core.errors import UserError
from engine.core.files import open_atomic
from engine.core.text import printable
from pipelines.sources import archives

_HEADER = struct.Struct("<QI")  # length, checksum of its 8 bytes
_FOOTER_BYTES = 4  # checksum of the data
_FORMAT = 2  # of the index; raise it when its meaning changes


# A record: its file's index and its number there; where its encoded image is, and its label.
RECORD = np.dtype(
    [("file", "<i4"), ("number", "<i8"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i8")]
)


class _BadRecordError(Exception):
    """The bytes are not what the format says."""


def index_records(files: list[str], image: str, label: str, cache: str) -> np.ndarray:
    """Finds the images in record files, or reads the index `cache` if it is of these files.

    Args:
      files: paths of uncompressed TFRecord files.
      image: name of the feature with the encoded image, one string.
      label: name of the feature with the label, one integer.
      cache: path of the index. It is written where it is missing or was made for other sizes,
        modification times or features, unless that fails.

    Returns:
      RECORD [N], in the order of the files.

    Raises:
      UserError: a file can't be read or contains something else, with its name and the offset.
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
    records = _load(cache, key, np.array([status.st_size for status in stats], dtype=np.int64))
    if records is None:
        scans = [_scan(n, file, image.encode(), label.encode()) for n, file in enumerate(files)]
        records = np.concatenate([np.zeros(0, RECORD), *scans])
        # In a read-only folder or on a full disk the next run builds the index again.
        with suppress(OSError), open_atomic(Path(cache), unique=True) as file:
            np.savez(file, key=key, records=records)
    return records


def _load(cache: str, key: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Returns the index, or None where it is missing, damaged or of other files."""
    try:
        with archives.open_archive(cache, most=os.path.getsize(cache)) as archive:
            if not np.array_equal(archive["key"], key):
                return None
            records = archives.read_column(archive, "records", RECORD)
        start, length = records["offset"], records["length"]
        inside = (records["file"] >= 0) & (start >= 0) & (length >= 0)
        inside &= length <= sizes[records["file"]] - start
    except Exception:  # a damaged archive fails in many ways
        return None
    return records if np.all(inside) else None


def _scan(index: int, file: str, image: bytes, label: bytes) -> np.ndarray:
    """Returns RECORD [n] of the file with that index."""
    rows: list[tuple[int, ...]] = []
    header = 0  # where the record begins, for the message
    try:
        with open(file, "rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return np.zeros(0, RECORD)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for start, stop in _records(data):
                    found = _parse_example(data, start, stop, image, label)
                    rows.append((index, len(rows), *found))
                    header = stop + _FOOTER_BYTES
    except OSError as error:
        raise _unreadable(error) from None
    except _BadRecordError as error:
        raise UserError(
            f"{printable(file)}, record at byte {header}: {error}; "
            "prepare the data set again, or copy the file again"
        ) from None
    return np.array(rows, dtype=RECORD)


def _unreadable(error: OSError) -> UserError:
    name = printable(str(error.filename))
    return UserError(f"{name} can't be read: {error.strerror}; prepare the data set again")


def _records(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of each record's data: `length, crc of length, data, crc of data`."""
    place = 0
    while place < len(data):
        if place + _HEADER.size > len(data):
            raise _BadRecordError(f"the file ends at byte {len(data)}, inside a header")
        length, checksum = _HEADER.unpack_from(data, place)
        if checksum != masked_crc32c(data[place : place + 8]):
            raise _BadRecordError("no TFRecord header: wrong checksum")
        start = place + _HEADER.size
        place = start + length + _FOOTER_BYTES
        if place > len(data):
            raise _BadRecordError(f"the file ends at byte {len(data)}, the record at byte {place}")
        yield start, start + length


def _parse_example(
    data: mmap.mmap, start: int, stop: int, image: bytes, label: bytes
) -> tuple[int, int, int]:
    """Returns the image's offset and length and the label of a serialised `tf.train.Example`."""
    offset = length = number = -1
    present: set[bytes] = set()
    for features in _fields(data, start, stop, 1):
        for entry in _fields(data, *features, 1):
            name = next((data[a:b] for a, b in _fields(data, *entry, 1)), b"")
            if name not in (image, label):
                continue
            present.add(name)
            for feature in _fields(data, *entry, 2):
                if name == image:
                    offset, length = _only_bytes(data, *feature)
                else:
                    number = _only_integer(data, *feature)
    if missing := {image, label} - present:
        raise _BadRecordError(f"no feature {min(missing).decode()!r} in it")
    if offset < 0:
        raise _BadRecordError(f"feature {image.decode()!r} contains no image")
    return offset, length, number


def _only_bytes(data: mmap.mmap, start: int, stop: int) -> tuple[int, int]:
    """Returns (offset, length) of the one string in a `Feature` with a `BytesList`, field 1."""
    values = [value for part in _fields(data, start, stop, 1) for value in _fields(data, *part, 1)]
    if len(values) != 1:
        raise _BadRecordError(f"{len(values)} strings where one image should be")
    return values[0][0], values[0][1] - values[0][0]


def _only_integer(data: mmap.mmap, start: int, stop: int) -> int:
    """Returns the one number in a `Feature` with an `Int64List`, field 3, packed or not."""
    for begin, end in _fields(data, start, stop, 3):
        packed = list(_fields(data, begin, end, 1))
        begin, end = packed[0] if packed else (begin + 1, end)
        if begin < end:
            number, after = _varint(data, begin, end)
            if after == end:
                return number - 2**64 if number >= 2**63 else number
    raise _BadRecordError("not one integer where the label should be")


def _fields(data: mmap.mmap, start: int, stop: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of the contents of each length-delimited field of that number."""
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
    """Returns a number of up to ten groups of 7 bits, lowest first, and the offset behind it."""
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
    """Returns the CRC-32C, rotated and shifted as in record files."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
