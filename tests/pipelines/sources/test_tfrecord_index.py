import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.core.errors import UserError
from pipelines.sources import tfrecord_index
from pipelines.sources.tfrecord_index import index_records, masked_crc32c

RNG = np.random.default_rng(0)


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


@pytest.fixture
def files(tmp_path):
    """Three files of 40, 0 and 25 examples; sizes around those whose length takes a byte more."""
    sizes = [0, 1, 127, 128, 16383, 16384, 70000]
    made = []
    for number, count in enumerate((40, 0, 25)):
        rows = [
            serialised(
                image=RNG.bytes(sizes[index % len(sizes)]),
                label=int(RNG.integers(-1, 300)),
                weight=0.5,
                text=b"label",
                other=7,
            )
            for index in range(count)
        ]
        made.append(write(tmp_path / f"file-{number}", rows))
    return made


def test_index_agrees_with_tensorflow(files, tmp_path):
    found = index_records(files, "image", "label", str(tmp_path / "index.npz"))
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], "int64"),
    }
    place = 0
    for number, file in enumerate(files):
        raw = Path(file).read_bytes()
        for inside, record in enumerate(tf.data.TFRecordDataset(file)):
            expected = tf.io.parse_single_example(record, spec)
            offset, length = found["offset"][place], found["length"][place]
            assert raw[offset : offset + length] == expected["image"].numpy()
            assert found["label"][place] == expected["label"].numpy()
            assert (found["file"][place], found["number"][place]) == (number, inside)
            place += 1
    assert place == len(found["label"]) == 65


def test_index_is_built_once_and_again_when_files_change(files, tmp_path, monkeypatch):
    cache = str(tmp_path / "index.npz")
    first = index_records(files, "image", "label", cache)
    with monkeypatch.context() as patched:
        patched.setattr(tfrecord_index, "_scan", lambda *_: pytest.fail("read again"))
        again = index_records(files, "image", "label", cache)
    np.testing.assert_array_equal(first, again)
    write(files[1], [serialised(image=b"new", label=3)])
    assert len(index_records(files, "image", "label", cache)["label"]) == 66
    write(files[1], [serialised(image=b"two", label=4)])  # of the same size, another time
    os.utime(files[1], ns=(1, 1))
    assert 4 in index_records(files, "image", "label", cache)["label"][40:41]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_damaged_or_unwritable_index_is_rebuilt(files, tmp_path):
    cache = tmp_path / "index.npz"
    first = index_records(files, "image", "label", str(cache))
    whole = cache.read_bytes()
    for damaged in (b"", whole[:100], whole[:-7], b"\x80\x04." + whole, bytes(len(whole))):
        cache.write_bytes(damaged)
        again = index_records(files, "image", "label", str(cache))
        np.testing.assert_array_equal(first["offset"], again["offset"])
    nowhere = index_records(files, "image", "label", str(tmp_path / "none" / "index.npz"))
    np.testing.assert_array_equal(first["label"], nowhere["label"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offset", 2**62),
        ("offset", -1),
        ("length", 2**62),
        ("length", -1),
        ("file", 9),
        ("file", -1),
    ],
)
def test_index_that_points_out_of_its_files_is_rebuilt(files, tmp_path, column, value):
    cache = tmp_path / "index.npz"
    first = index_records(files, "image", "label", str(cache))
    archive = dict(np.load(cache))
    archive["records"][column] = value
    np.savez(cache, **archive)
    again = index_records(files, "image", "label", str(cache))
    np.testing.assert_array_equal(first, again)


def test_index_of_other_types_is_rebuilt(files, tmp_path):
    cache = tmp_path / "index.npz"
    first = index_records(files, "image", "label", str(cache))
    archive = dict(np.load(cache))
    np.savez(cache, key=archive["key"], records=archive["records"]["offset"].astype(float))
    again = index_records(files, "image", "label", str(cache))
    np.testing.assert_array_equal(first, again)


def test_unpacked_labels_are_read():
    """As other writers have them; proto2 leaves numbers unpacked."""
    number = b"\x08" + b"\xac\x02"  # field 1, 300
    feature_ = b"\x1a" + bytes([len(number)]) + number
    assert tfrecord_index._only_integer(feature_, 0, len(feature_)) == 300


def test_the_checksum_is_that_of_the_standard():
    # RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa, 0 to 31 have 46dd794e.
    for data, crc in ((bytes(32), 0x8A9136AA), (bytes(range(32)), 0x46DD794E)):
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert masked_crc32c(data) == masked


def scan(path):
    return index_records([os.fspath(path)], "image", "label", os.fspath(path) + ".npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": b"x"}, "no feature 'label'"),
        ({"label": 3}, "no feature 'image'"),
        ({"image": 4, "label": 3}, "0 strings"),
        ({"image": b"x", "label": b"cat"}, "not one integer"),
        ({"image": b"x", "label": 1.5}, "not one integer"),
    ],
)
def test_other_features_are_named(tmp_path, values, message):
    good = serialised(image=b"x", label=1)
    file = write(tmp_path / "file", [good, serialised(**values)])
    with pytest.raises(UserError, match=f"file, record at byte {len(good) + 16}: {message}"):
        scan(file)


def test_damage_is_named_with_its_place(tmp_path):
    rows = [serialised(image=bytes(50), label=index) for index in range(3)]
    whole = Path(write(tmp_path / "file", rows)).read_bytes()
    size = len(whole) // 3
    broken = tmp_path / "broken"
    for cut in (1, 11, 12, size - 1):
        broken.write_bytes(whole[: size + cut])
        with pytest.raises(UserError, match=f"byte {size}: the file ends at byte {size + cut}"):
            scan(broken)
    broken.write_bytes(whole[:size] + b"\1" + whole[size + 1 :])
    with pytest.raises(UserError, match=f"byte {size}: no TFRecord header"):
        scan(broken)
    broken.write_bytes(b"\x1f\x8b" + RNG.bytes(200))
    with pytest.raises(UserError, match="byte 0: no TFRecord header"):
        scan(broken)
    with pytest.raises(UserError, match="can't be read"):
        scan(tmp_path / "none")


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_give_an_index_or_a_message(tmp_path, data):
    """Garbage behind a right header: records of random bytes, and good ones with bytes changed."""
    content = bytearray(serialised(image=b"0123456789", label=5, text=b"x"))
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=80)))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    header = struct.pack("<Q", len(content))
    crc = struct.pack("<I", masked_crc32c(header))
    file = tmp_path / "fuzz"
    file.write_bytes(header + crc + bytes(content) + bytes(4))
    try:
        found = scan(file)
    except UserError:
        return
    assert found["offset"][0] >= 12
    assert found["offset"][0] + found["length"][0] <= 12 + len(content)
