"""Memory that is prefaulted: its pages are there, and it is left alone once it is taken."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipelines.pixel_cache import prefault
from pipelines.pixel_cache.prefault import PrefaultedArray


def resident_bytes(array: np.ndarray) -> int:
    """Of the mapping that holds the array."""
    middle, inside = array.ctypes.data + array.nbytes // 2, False
    with open("/proc/self/smaps") as file:
        for line in file:
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            if last:
                inside = int(first, 16) <= middle < int(last, 16)
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("the array is in no mapping")


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 1, 3), (500, 64, 64, 3)])
def test_taken_array_has_the_shape_and_can_be_written(shape):
    array = PrefaultedArray(shape).take()
    assert (array.shape, array.dtype) == (shape, np.uint8)
    array[:] = 7
    assert (array == 7).all()


def test_all_pages_are_resident_when_nobody_takes_the_array_before():
    prefaulted = PrefaultedArray((32, 1 << 20))
    prefaulted._thread.join()
    assert resident_bytes(prefaulted.take()) > (32 << 20) - 2 * 4096  # its ends share pages


def test_taken_array_is_touched_no_more(monkeypatch):
    touching, taken = threading.Event(), threading.Event()

    class Stop(threading.Event):
        def is_set(self):
            touching.set()
            return taken.wait(10) and super().is_set()

        def set(self):
            super().set()
            taken.set()

    monkeypatch.setattr(prefault.threading, "Event", Stop)
    prefaulted = PrefaultedArray((4, 1 << 20))
    monkeypatch.undo()
    assert touching.wait(10)
    array = prefaulted.take()
    assert not prefaulted._thread.is_alive()
    array[:] = 1
    assert (array == 1).all()
