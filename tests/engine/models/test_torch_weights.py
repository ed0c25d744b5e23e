"""The reader of PyTorch's older weight file, on files written here by hand and on hostile ones."""

import collections
import io
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.models import torch_weights
from tests.engine.models import pickles
from tests.engine.models.pickles import SIX, part, plain, raw, state, storage, tensor, whole

GOOD = whole(state(weight=tensor(), bias=tensor(offset=3, sizes=(3,), strides=(1,))))
BIG_ENDIAN = GOOD.replace(plain(pickles.SYSTEM), plain({**pickles.SYSTEM, "little_endian": False}))


@pytest.fixture
def read(tmp_path):
    """Reads a file of these bytes."""

    def read_bytes(content: bytes):
        file = tmp_path / "net.pth"
        file.write_bytes(content)
        return torch_weights.read(file)

    return read_bytes


@pytest.fixture
def refuse(read):
    """Expects one line, soon, and little memory taken."""

    def refuse_bytes(content: bytes, reason: str | None = None) -> None:
        tracemalloc.start()
        began = time.process_time()
        try:
            with pytest.raises(UserError, match=reason) as caught:
                read(content)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert time.process_time() - began < 20
        # A byte can mean a tuple of one, and no more.
        assert peak < 80 * len(content) + (1 << 20)
        message = str(caught.value)
        assert "net.pth" in message
        assert message.isprintable()
        assert len(message) < 500

    return refuse_bytes


def test_arrays_are_writable_copies(read):
    arrays = read(whole(state(weight=tensor())))
    assert list(arrays) == ["weight"]
    np.testing.assert_array_equal(arrays["weight"], SIX.reshape(2, 3))
    assert arrays["weight"].dtype == np.float32
    arrays["weight"][0] = 1  # the caller's own, to be written


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_numbers_of_each_type_are_read(read, kind, dtype):
    values = np.array([1, 0, 2, 100, 7, 0]).astype(dtype)
    found = read(whole(state(x=tensor(storage(kind))), numbers=raw(values)))["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values.reshape(2, 3))


def test_bfloat16_is_read_as_float32(read):
    values = np.array([1.0, -2.5, 0.0, 3.0e38, 1e-20, 96.0], np.float32)
    halves = values.view(np.uint32) >> 16
    body = state(x=tensor(storage("BFloat16Storage"), sizes=(6,), strides=(1,)))
    found = read(whole(body, numbers=raw(halves.astype("<u2"))))["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (halves << 16).view(np.float32))
    np.testing.assert_allclose(found, values, rtol=2**-7)


def test_bool_of_another_byte_is_true(read):
    body = state(x=tensor(storage("BoolStorage")))
    found = read(whole(body, numbers=raw(np.array([0, 1, 2, 255, 0, 1], np.uint8))))["x"]
    assert found.view(np.uint8).tolist() == [[0, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    ("offset", "sizes", "strides", "expected"),
    [
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (1, (2,), (2,), [1, 3]),
        (5, (), (), 5),
        (4, (3,), (0,), [4, 4, 4]),
        (0, (1, 2), (2**40, 1), [[0, 1]]),
        (0, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_tensor_is_a_window_on_its_storage(read, offset, sizes, strides, expected):
    body = state(x=tensor(offset=offset, sizes=sizes, strides=strides))
    found = read(whole(body))["x"]
    assert found.shape == sizes
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_tensors_share_storages_in_any_order(read):
    one, two = storage(key="1", count=2), storage("LongStorage", "2", 1)
    body = state(
        a=tensor(one, 0, (2,), (1,)), b=tensor(two, 0, (), ()), c=tensor(one, 1, (1,), (1,))
    )
    numbers = raw(np.array([9])) + raw(SIX[:2])
    found = read(whole(body, keys=("2", "1"), numbers=numbers))
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [0.0, 1.0],
        "b": 9,
        "c": [1.0],
    }


def test_memo_and_layer_versions_are_read(read):
    """What PyTorch writes around its tensors: memo, `_metadata`."""
    metadata = part({"_metadata": collections.OrderedDict()}).replace(b"\x80\x02", b"")
    stored = tensor().replace(pickles.REBUILD, pickles.REBUILD + b"q\x50") + b"r\x00\x01\x00\x00"
    body = (
        b"\x80\x02" + pickles.DICT + b")R(" + part("a") + stored + part("b") + b"j\x00\x01\x00\x00u"
    )
    found = read(whole(body + metadata + b"b."))
    np.testing.assert_array_equal(found["a"], found["b"])


def test_attacks_of_the_fuzz_test_run_in_the_unpickler_of_python(tmp_path, monkeypatch):
    """Otherwise `tests/fuzz/test_streams.py` would prove nothing."""
    monkeypatch.chdir(tmp_path)
    attacks = pickles.hostile()
    for name in ("reduce, protocol 2", "reduce, protocol 0", "stack_global", "nested", "inst"):
        pickle.load(io.BytesIO(attacks[name]))
        (tmp_path / pickles.MARKER).rmdir()


def test_file_cut_off_anywhere_is_refused(refuse):
    for length in range(len(GOOD)):
        refuse(GOOD[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cut off"),
        (b"\xff\xd8\xff\xe0 a photograph", "no weight file"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (whole(state(), magic=pickles.MAGIC + 1, keys=(), numbers=b""), "magic number"),
        (whole(state(), protocol=1002, keys=(), numbers=b""), "protocol number 1002"),
        (BIG_ENDIAN, "endian"),
        (whole(state(a=tensor())) + b"\0", "should end with 32 bytes of numbers, has 33"),
        (whole(state(a=tensor()), keys=("8",)), "other storages"),
        (whole(state(a=tensor()), keys=("7", "7")), "other storages"),
        (whole(state(a=tensor()), keys=(7,)), "other storages"),
        (whole(state(a=tensor()), numbers=struct.pack("<q", 5) + SIX.tobytes()), "5 numbers"),
        (whole(state(a=tensor()), numbers=struct.pack("<q", -1) + SIX.tobytes()), "-1 numbers"),
        (whole(plain([1]), keys=(), numbers=b""), "type list"),
        (whole(plain({"epoch": 3}), keys=(), numbers=b""), "'epoch'"),
        (whole(plain({3: 3}), keys=(), numbers=b""), "as a key"),
        (whole(state(a=tensor(offset=1))), "beyond its storage"),
        (whole(state(a=tensor(sizes=(3, 3)))), "beyond its storage"),
        (whole(state(a=tensor(sizes=(2, 2), strides=(5, 1)))), "beyond its storage"),
        (whole(state(a=tensor(offset=-1))), "tensor in an unknown form"),
        (whole(state(a=tensor(strides=(-3, 1)))), "tensor in an unknown form"),
        (whole(state(a=tensor(sizes=(6,)))), "tensor in an unknown form"),
        (whole(state(a=tensor(sizes=(True, 3)))), "tensor in an unknown form"),
        (whole(state(a=tensor(sizes=(1,) * 65, strides=(1,) * 65))), "tensor in an unknown form"),
        (whole(state(a=tensor(storage(count=-6)))), "storage in an unknown form"),
        (whole(state(a=tensor(storage(view=("v", 0, 1))))), "storage in an unknown form"),
        (whole(state(a=tensor(storage("QInt8Storage")))), "QInt8Storage"),
        (whole(state(a=tensor(), b=tensor(storage(count=5)))), "in two ways"),
    ],
)
def test_wrong_file_is_refused_with_reason(refuse, content, reason):
    refuse(content, reason)


@pytest.mark.parametrize(
    "body",
    [
        state(a=tensor(storage(count=2**40), sizes=(2**40,), strides=(1,))),
        state(a=tensor(storage(count=2**200), sizes=(2**200,), strides=(1,))),
        state(a=tensor(sizes=(2**40,), strides=(0,))),
        state(a=tensor(sizes=(2**62, 2**62, 0), strides=(1, 1, 1))),
        # One small storage seen whole by a thousand tensors.
        state(**{f"t{n}": tensor(sizes=(1000,), strides=(0,)) for n in range(1000)}),
        # A text, a number and a memo index that claim gigabytes.
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02Nr\xff\xff\xff\xff.",
        b"\x80\x02" + part("x" * 100_000) + b".",
        # More operations than any state dict has, marks and tuples as deep, and such a key.
        b"\x80\x02" + b"N" * 5_000_000 + b".",
        b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.",
        b"\x80\x02" + b"(" * 300_000 + b"t" * 90_000 + b".",
        b"\x80\x02)" + b"\x85" * 300_000 + b".",
        # A wide value, named again and again.
        b"\x80\x02(" + b"K\x01" * 100_000 + b"tq\x00" + b"h\x00h\x00\x86" * 100_000 + b".",
    ],
    ids=range(15),
)
def test_bomb_takes_neither_memory_nor_time(refuse, body):
    refuse(whole(body))


def test_path_of_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("none", "No such file"),
        ("", "not a regular"),
        ("pipe", "not a regular"),
    ):
        with pytest.raises(UserError, match=reason):
            torch_weights.read(tmp_path / name)
