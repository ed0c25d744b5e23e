"""Good record files, for the tests of them and of their index."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import tensorflow as tf

from pipelines.sources import tfrecord_index

SIZES = (0, 1, 127, 128, 300, 9)


def _feature(value: bytes | int | float) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def example(size: int, label: int) -> bytes:
    values = {"image": b"x" * size, "label": label, "weight": 0.5, "text": b"label"}
    features = {name: _feature(value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def framed(data: bytes) -> bytes:
    """A record of these bytes; the checksum of its data is zero, since nobody checks it."""
    return headed(len(data)) + data + bytes(4)


def headed(length: int) -> bytes:
    """The header of a record of so many bytes, whether they follow or not."""
    text = struct.pack("<Q", length)
    return text + tfrecord_index.masked_crc32c(text)


def record_files(folder: Path) -> list[str]:
    """Two files, by TensorFlow's own writer."""
    paths = [os.fspath(folder / f"records-{number}") for number in range(2)]
    for number, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for size in SIZES[number::2]:
                writer.write(example(size, label=size - 1))
    return paths
