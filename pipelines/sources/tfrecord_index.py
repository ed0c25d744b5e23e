"""Random access to TFRecord files by an index of where each image's bytes are.

The files are read once and the index is cached beside them; from then on an example is (file,
offset, length), like a plain file.

Source: the record framing is described in `tensorflow/core/lib/io/record_writer.h`.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from engine.core.errors import UserError
from engine.core.files import open_atomic
from engine.core.text import printable
from pipelines.sources import archives

_HEADER_BYTES = 12  # length, checksum of its 8 bytes
_FOOTER_BYTES = 4  # checksum of the data
_FORMAT = 3  # of the index; raise it when its meaning changes


# A record: its file's index and its number there; where its encoded image is, and its label.
RECORD = np.dtype(
    [("file", "<i4"), ("number", "<i8"), ("offset", "<i8"), ("length", "<i8"), ("label", "<i8")]
)


def index_records(files: list[str], image: str, label: str, cache: str) -> np.ndarray:
    """Finds the images in record files, or reads the index `cache` if it is of these files.

    Args:
      files: paths of uncompressed TFRecord files.
      image: name of the feature with the encoded image, one string.
      label: name of the feature with the label, one integer.
      cache: path of the index. It is written where it is missing or was made for other sizes,
        times or features, unless that fails.

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
        (os.path.basename(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for file, status in zip(files, stats, strict=True)
    ]
    text = json.dumps([_FORMAT, image, label, marks])
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint8)
    records = _load(cache, key, np.array([status.st_size for status in stats], dtype=np.int64))
    if records is None:
        rows = [
            row for number, file in enumerate(files) for row in _scan(number, file, image, label)
        ]
        records = np.array(rows, RECORD)
        # In a read-only folder or on a full disk the next run builds the index again.
        with suppress(OSError), open_atomic(Path(cache)) as file:
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


def _scan(index: int, file: str, image: str, label: str) -> list[tuple[int, ...]]:
    """Returns the rows of RECORD of the file with that index."""
    rows: list[tuple[int, ...]] = []
    place = 0  # where the record begins
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while place < size:
                header = stream.read(_HEADER_BYTES)
                length = int.from_bytes(header[:8], "little")
                if len(header) == _HEADER_BYTES and header[8:] != masked_crc32c(header[:8]):
                    raise ValueError("no TFRecord header: wrong checksum of its length")
                end = place + _HEADER_BYTES + length + _FOOTER_BYTES
                if end > size:
                    raise ValueError(f"the file ends at byte {size}, the record at byte {end}")
                offset, image_bytes, number = _parse_example(stream.read(length), image, label)
                start = place + _HEADER_BYTES + offset
                rows.append((index, len(rows), start, image_bytes, number))
                stream.seek(end)
                place = end
    except OSError as error:
        raise _unreadable(error) from None
    except ValueError as error:
        raise UserError(
            f"{printable(file)}, record at byte {place}: {error}; "
            "prepare the data set again, or copy the file again"
        ) from None
    return rows


def _unreadable(error: OSError) -> UserError:
    name = printable(str(error.filename))
    return UserError(f"{name} can't be read: {error.strerror}; prepare the data set again")


def masked_crc32c(data: bytes) -> bytes:
    """Returns the checksum of record files: CRC-32C (RFC 3720), rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reflected
    return crc


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))


def _parse_example(record: bytes, image: str, label: str) -> tuple[int, int, int]:
    """Returns the image's offset and length and the label of a serialised `tf.train.Example`.

    Raises:
      ValueError: it is something else, or lacks one of the features.
    """
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        raise ValueError("no tf.train.Example") from None
    images, labels = features[image].bytes_list.value, features[label].int64_list.value
    if len(images) != 1:
        raise ValueError(f"{len(images)} strings in feature {image!r}, allowed: one image")
    if len(labels) != 1:
        raise ValueError(f"{len(labels)} integers in feature {label!r}, allowed: one label")
    return record.index(images[0]), len(images[0]), labels[0]
