"""Memory that is mapped ahead, and left alone once it is somebody's."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pipelines.pixel_cache.mapping import Mapping


def resident(array: np.ndarray) -> int:
    """Bytes of the mapping that holds the array which the system has given."""
    start, inside = array.ctypes.data + array.nbytes // 2, False
    with open("/proc/self/smaps") as file:
        for line in file:
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            if last:
                inside = int(first, 16) <= start < int(last, 16)
            elif inside and line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("the array lies nowhere")


def mapping_thread() -> threading.Thread | None:
    return next((t for t in threading.enumerate() if t.name == "mapping"), None)


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 1, 3), (3, 224, 224, 3), (500, 64, 64, 3)])
def test_an_array_of_that_shape_that_can_be_written_to(shape):
    array = Mapping(shape).array()
    assert array.shape == shape
    assert array.dtype == np.uint8
    array[:] = 7
    assert (array == 7).all()


def test_all_of_it_is_there_when_nobody_asked_for_it_meanwhile():
    mapped = Mapping((64, 1 << 20))
    if thread := mapping_thread():  # else it is through already
        thread.join()
    assert resident(mapped.array()) > (64 << 20) - 2 * 4096  # its ends share pages with others


def test_asked_for_it_is_touched_no_more():
    array = Mapping((256, 1 << 20)).array()  # takes longer to map than to ask for
    assert mapping_thread() is None
    array[::64] = 1
    time.sleep(0.05)
    assert (array[::64] == 1).all()
