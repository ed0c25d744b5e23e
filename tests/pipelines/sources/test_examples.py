"""The index: columns, splits, and reading bytes at their offset."""

import os

import numpy as np
import pytest

from engine.core.text import printable
from pipelines.sources.examples import TEST, TRAIN, VALIDATION, Examples, from_columns, join, read


def make(count=6, **columns) -> Examples:
    names = [f"{index}.jpg" for index in range(count)]
    values = {"splits": [TRAIN, VALIDATION, TEST] * (count // 3), **columns}
    return from_columns(names, np.arange(count) % 2, ("a", "b"), keys=names, **values)


def test_splits_keep_their_order_and_join_to_everything():
    examples = make()
    assert examples.subset("train").keys.tolist() == ["0.jpg", "3.jpg"]
    parts = join([examples.subset(split) for split in ("train", "validation", "test")])
    assert sorted(parts.keys) == sorted(examples.keys)
    assert parts.class_counts() == examples.class_counts() == (3, 3)


def test_without_accepts_masks_and_indices():
    examples = make()
    assert examples.without([0, 5]).keys.tolist() == ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert examples.without(examples.labels == 0).class_counts() == (0, 3)
    assert len(examples.without([])) == 6
    assert len(examples.without(np.array([], dtype=np.int64))) == 6


def test_column_of_another_length_or_label_without_a_class_is_refused():
    with pytest.raises(ValueError, match="splits"):
        make(splits=[TRAIN])
    with pytest.raises(ValueError, match="label"):
        from_columns(["x"], [2], ("a", "b"), keys=["x"])


def test_read_returns_whole_files_or_byte_ranges(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    examples = from_columns(
        [str(file)] * 3, [0, 0, 0], ("a",), keys="abc", offsets=[0, 3, 9], lengths=[-1, 4, 0]
    )
    assert [read(examples, index) for index in range(3)] == [b"0123456789", b"3456", b""]
    assert examples.name(0) == str(file)
    assert examples.name(1) == f"{file}@3"


def test_unreadable_example_is_an_oserror(tmp_path):
    short, pipe = tmp_path / "short", tmp_path / "pipe"
    short.write_bytes(b"0123")
    os.mkfifo(pipe)
    paths = [str(short), str(pipe), str(tmp_path), str(tmp_path / "none")]
    examples = from_columns(
        paths, [0] * 4, ("a",), keys=paths, offsets=[2, 0, 0, 0], lengths=[3, -1, -1, -1]
    )
    for index in range(4):
        with pytest.raises(OSError, match=r"ends before byte 5|regular|none"):
            read(examples, index)


def test_path_may_be_any_bytes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xff\n\xc3\xa9.jpg"
    with open(raw, "wb") as file:
        file.write(b"here")
    path = os.fsdecode(raw)
    examples = from_columns([path], [0], ("a",), keys=[path])
    assert read(examples, 0) == b"here"
    assert examples.encoded_paths().tolist() == [raw]
    assert printable(path).endswith(r"/\xff\né.jpg")
    printable(path).encode("utf-8")
