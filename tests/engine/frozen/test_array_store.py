"""Arrays in memory and on disk: the same content, no name on the disk, no room taken twice."""

import collections
import os

import numpy as np
import pytest

from engine.frozen import array_store
from engine.frozen.array_store import CacheBudget

Usage = collections.namedtuple("Usage", "total used free")
SHAPE = (2, 5, 3)
BYTES = 2 * 5 * 3 * 4
ARRAY = (SHAPE, np.dtype(np.uint32))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_rows_are_taken_as_they_were_put(tmp_path, place):
    budget = CacheBudget(BYTES if place == "memory" else 0, tmp_path)
    [store] = array_store.allocate([ARRAY], budget)
    assert (store.mapping is None) == (place == "memory")
    random = np.random.default_rng(0)
    expected = random.integers(0, 2**32, SHAPE, np.uint32)
    for slot in (1, 0):
        for first, last in ((3, 5), (0, 3)):
            store.put(slot, first, expected[slot, first:last])
    slots, places = random.integers(0, 2, 40), random.integers(0, 5, 40)
    assert np.array_equal(store.take(slots, places), expected[slots, places])
    store.put(1, 2, expected[0, :1])
    expected[1, 2] = expected[0, 0]
    assert np.array_equal(store.rows, expected), "and nothing else has changed"


def test_mapped_file_is_unlinked_and_its_space_reserved(tmp_path):
    folder = tmp_path / "not" / "there"
    before = set(os.listdir("/proc/self/fd"))
    shape = (1, 1000, 1000)
    [store] = array_store.allocate([(shape, np.dtype(np.uint16))], CacheBudget(0, folder))
    assert list(folder.iterdir()) == []
    handles = [f"/proc/self/fd/{fd}" for fd in set(os.listdir("/proc/self/fd")) - before]
    files = [os.stat(path) for path in handles if os.readlink(path).startswith(str(folder))]
    assert [file.st_size for file in files] == [2_000_000]
    assert files[0].st_blocks * 512 >= 2_000_000, "else a full disk would end the process"
    del store
    assert not any(os.path.exists(path) for path in handles), "the space is free again"


def test_arrays_go_to_disk_when_memory_is_used_up(tmp_path):
    stores = array_store.allocate(3 * [ARRAY], CacheBudget(2 * BYTES + 1, tmp_path))
    assert [store.mapping is None for store in stores] == [True, True, False]


def test_allocate_without_room_raises(tmp_path, monkeypatch):
    with pytest.raises(OSError, match=f"{BYTES} bytes do not fit in the {BYTES - 1}"):
        array_store.allocate([ARRAY], CacheBudget(BYTES - 1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_store.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        array_store.allocate([ARRAY], CacheBudget(0, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "memory"), (70, "memory"), (71, "disk"), (500, "disk"), (501, None)]
)
@pytest.mark.parametrize("folder", [".", "not/there", None])
def test_budget_is_memory_first_then_half_of_the_free_disk(
    tmp_path, monkeypatch, count, expected, folder
):
    monkeypatch.setattr(array_store.shutil, "disk_usage", lambda _: Usage(9000, 8000, 1000))
    budget = CacheBudget(70, folder and tmp_path / folder)
    assert budget.place(count) == (expected if folder or count <= 70 else None)
