"""Tables in memory and on disk: the same content, no name on the disk, no room taken twice."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf

from engine.frozen import array_store
from engine.frozen.array_store import CacheBudget

Usage = collections.namedtuple("Usage", "total used free")
SHAPE = (2, 5, 3)
BYTES = 2 * 5 * 3 * 4


@pytest.fixture(params=["memory", "disk"])
def table(request, tmp_path) -> array_store.ArrayStore:
    cache_budget = CacheBudget(BYTES if request.param == "memory" else 0, tmp_path / "kept")
    [made] = array_store.allocate([(SHAPE, np.dtype(np.uint32))], cache_budget)
    assert (made.mapping is None) == (request.param == "memory")
    return made


def test_rows_are_taken_as_they_were_put(table):
    random = np.random.default_rng(0)
    expected = random.integers(0, 2**32, SHAPE, np.uint32)
    for slot in (1, 0):
        for first, last in ((3, 5), (0, 3)):
            table.put(slot, first, expected[slot, first:last])
    slots, places = random.integers(0, 2, 40), random.integers(0, 5, 40)
    assert np.array_equal(table.take(slots, places), expected[slots, places])
    table.put(1, 2, expected[0, :1])
    expected[1, 2] = expected[0, 0]
    assert np.array_equal(table.rows, expected), "and nothing else has changed"


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_numbers_of_each_dtype_come_back_bit_for_bit(name):
    numbers = tf.constant([[[1.5, -0.0, float("nan"), float("inf"), 1e-7]]])
    values = tf.cast(numbers, name).numpy()
    dtype = array_store.storage_dtype(name)
    [table] = array_store.allocate([((1, 1, 5), dtype)], CacheBudget(10**6))
    table.put(0, 0, values[0])
    taken = table.take(np.array([0]), np.array([0]))
    again = tf.bitcast(taken, name).numpy()
    assert taken.itemsize == again.itemsize == array_store.itemsize(name)
    assert again.tobytes() == values.tobytes()


def test_mapped_file_is_unlinked_and_its_space_reserved(tmp_path):
    folder = tmp_path / "not" / "there"
    before = set(os.listdir("/proc/self/fd"))
    shape = (1, 1000, 1000)
    [made] = array_store.allocate([(shape, np.dtype(np.uint16))], CacheBudget(0, folder))
    assert list(folder.iterdir()) == []
    handles = [f"/proc/self/fd/{fd}" for fd in set(os.listdir("/proc/self/fd")) - before]
    files = [os.stat(path) for path in handles if os.readlink(path).startswith(str(folder))]
    assert [file.st_size for file in files] == [2_000_000]
    assert files[0].st_blocks * 512 >= 2_000_000, "else a full disk would end the process"
    del made
    assert not any(os.path.exists(path) for path in handles), "the space is free again"


def test_arrays_go_to_disk_when_memory_is_used_up(tmp_path):
    budget = CacheBudget(2 * BYTES + 1, tmp_path)
    made = array_store.allocate(3 * [(SHAPE, np.dtype(np.uint32))], budget)
    assert [table.mapping is None for table in made] == [True, True, False]


def test_allocate_without_room_raises(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=f"{BYTES} bytes do not fit in the {BYTES - 1}"):
        array_store.allocate([(SHAPE, np.dtype(np.uint32))], CacheBudget(BYTES - 1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_store.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        array_store.allocate([(SHAPE, np.dtype(np.uint32))], CacheBudget(0, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "memory"), (70, "memory"), (71, "disk"), (500, "disk"), (501, None)]
)
def test_budget_is_memory_first_then_half_of_the_free_disk(tmp_path, monkeypatch, count, expected):
    monkeypatch.setattr(array_store.shutil, "disk_usage", lambda _: Usage(9000, 8000, 1000))
    assert CacheBudget(70, tmp_path).place(count) == expected


def test_budget_without_a_folder_is_memory_only():
    assert [CacheBudget(70).place(count) for count in (70, 71)] == ["memory", None]


def test_budget_of_a_missing_folder_is_that_of_its_disk(tmp_path):
    assert CacheBudget(0, tmp_path / "not" / "there").place(1000) == "disk"
    assert CacheBudget(0, tmp_path / "not" / "there").place(2**60) is None
