"""The index of record files agrees with TensorFlow's own reading of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from engine.core.errors import UserError
from pipelines.sources import tfrecord_index
from pipelines.sources.tfrecord_index import index_records

RNG = np.random.default_rng(0)
SIZES = (0, 1, 127, 128, 16383, 16384, 70000)  # around those whose length takes a byte more


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def serialised(**values):
    features = {name: feature(value) for name, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, contents):
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for content in contents:
            writer.write(content)
    return os.fspath(path)


def random_row(number):
    image, label = RNG.bytes(SIZES[number % len(SIZES)]), int(RNG.integers(-1, 300))
    return serialised(image=image, label=label, weight=0.5, text=b"label", other=7)


@pytest.fixture
def files(tmp_path):
    """Three files of 40, 0 and 25 examples."""
    return [
        write(tmp_path / f"file-{number}", map(random_row, range(count)))
        for number, count in enumerate((40, 0, 25))
    ]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "index.npz"


def index(files, cache):
    return index_records(files, "image", "label", os.fspath(cache))


def test_index_agrees_with_tensorflow(files, cache):
    records = index(files, cache)
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], "int64"),
    }
    place = 0
    for number, file in enumerate(files):
        raw = Path(file).read_bytes()
        for inside, record in enumerate(tf.data.TFRecordDataset(file)):
            expected = tf.io.parse_single_example(record, spec)
            offset, length = records["offset"][place], records["length"][place]
            assert raw[offset : offset + length] == expected["image"].numpy()
            assert records["label"][place] == expected["label"].numpy()
            assert (records["file"][place], records["number"][place]) == (number, inside)
            place += 1
    assert place == len(records["label"]) == 65


def test_index_is_built_once_and_again_when_files_change(files, cache, monkeypatch):
    first = index(files, cache)
    with monkeypatch.context() as patched:
        patched.setattr(tfrecord_index, "_scan", lambda *_: pytest.fail("read again"))
        again = index(files, cache)
    np.testing.assert_array_equal(first, again)
    write(files[1], [serialised(image=b"new", label=3)])
    assert len(index(files, cache)["label"]) == 66
    status = os.stat(files[1])
    write(files[1], [serialised(image=b"two", label=4)])  # of the same size and time
    os.utime(files[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert 4 in index(files, cache)["label"][40:41]
    assert not [name for name in os.listdir(cache.parent) if name.endswith(".part")]


def test_index_that_points_outside_or_is_of_another_type_is_rebuilt(files, cache):
    first = index(files, cache)
    archive = dict(np.load(cache))
    wrong = [first["offset"].astype(float)]
    for column in ("file", "offset", "length"):
        for value in (-1, 2**31 - 1):
            wrong.append(first.copy())
            wrong[-1][column] = value
    for records in wrong:
        np.savez(cache, **archive | {"records": records})
        np.testing.assert_array_equal(first, index(files, cache))


def test_index_in_a_missing_folder_is_built_each_time(files, cache):
    nowhere = index(files, cache.parent / "none" / "index.npz")
    np.testing.assert_array_equal(index(files, cache), nowhere)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": b"x"}, "0 integers in feature 'label'"),
        ({"label": 3}, "0 strings in feature 'image'"),
        ({"image": 4, "label": 3}, "0 strings in feature 'image'"),
        ({"image": b"x", "label": b"cat"}, "0 integers in feature 'label'"),
        ({"image": b"x", "label": 1.5}, "0 integers in feature 'label'"),
    ],
)
def test_missing_features_are_named(tmp_path, cache, values, message):
    good = serialised(image=b"x", label=1)
    file = write(tmp_path / "file", [good, serialised(**values)])
    with pytest.raises(UserError, match=f"file, record at byte {len(good) + 16}: {message}"):
        index([file], cache)


def test_damage_is_named_with_its_place(tmp_path, cache):
    rows = [serialised(image=bytes(50), label=index) for index in range(3)]
    whole = Path(write(tmp_path / "file", rows)).read_bytes()
    size = len(whole) // 3
    broken = tmp_path / "broken"
    for damaged, message in [
        *((whole[: size + cut], f"byte {size}: the file ends at") for cut in (1, 11, 12, size - 1)),
        (whole[: size + 12] + b"\xff" + whole[size + 13 :], f"byte {size}: no tf.train.Example"),
        (b"\x1f\x8b" + RNG.bytes(200), "byte 0: no TFRecord header: wrong checksum"),
    ]:
        broken.write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            index([str(broken)], cache)
    with pytest.raises(UserError, match="can't be read"):
        index([str(tmp_path / "none")], cache)


def test_damaged_length_is_refused_before_so_much_is_read(tmp_path, cache):
    file = tmp_path / "file"
    with open(file, "wb") as stream:
        stream.write((10**12).to_bytes(8, "little") + bytes(4))
        stream.truncate(10**12 + 16)  # sparse
    with pytest.raises(UserError, match="record at byte 0: no TFRecord header: wrong checksum"):
        index([os.fspath(file)], cache)
