"""Taking images from memory and from a file; the folder of the cache."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.pixel_cache import cache
from pipelines.pixel_cache.cache import ALIGNMENT, PixelCache, PixelFile
from tests.pipelines.cached import blank_index

SHAPE = (13, 7, 3)
COUNT = 50
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, *SHAPE), np.uint8)
INDEX = blank_index(COUNT)
INDEX.facts["checksum"] = cache.checksums(IMAGES)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pixels.u8"
    path.write_bytes(IMAGES.tobytes())
    return PixelFile(path)


@pytest.fixture(params=["memory", "disk"])
def pixels(request, file):
    if request.param == "memory":
        return PixelCache(SHAPE, INDEX, memory=IMAGES)
    return PixelCache(SHAPE, INDEX, file=file)


def test_any_rows_are_taken_in_any_order(pixels):
    assert pixels.nbytes == IMAGES.nbytes
    assert pixels.take([]).shape == (0, *SHAPE)
    for rows in ([0], [49, 0, 49, 7], range(COUNT), np.arange(COUNT, dtype=np.int32)[::-3]):
        taken = pixels.take(rows)
        np.testing.assert_array_equal(taken, IMAGES[np.asarray(rows, int)])
        assert taken.flags.writeable
        assert taken.ctypes.data % ALIGNMENT == 0


def test_taken_images_are_copies(pixels):
    first = pixels.take([1, 2])
    pixels.take([3, 4])[:] = 0
    np.testing.assert_array_equal(first, IMAGES[1:3])
    np.testing.assert_array_equal(pixels.take([3, 4]), IMAGES[3:5])


@pytest.mark.parametrize("rows", [[-1], [0, COUNT], [2, -COUNT]])
def test_missing_row_is_an_error(pixels, rows):
    with pytest.raises(IndexError, match="outside 0 to 49"):
        pixels.take(rows)


def test_tensorflow_needs_no_copy_of_taken_images(pixels):
    addresses = []

    def take(rows):
        taken = pixels.take(rows)
        addresses.append(taken.ctypes.data)
        return taken

    dataset = tf.data.Dataset.from_tensors(np.arange(8)).map(
        lambda rows: tf.numpy_function(take, [rows], tf.uint8, stateful=False)
    )
    (batch,) = dataset
    assert np.asarray(memoryview(batch)).ctypes.data == addresses[0]


def test_short_reads_are_continued(file, monkeypatch):
    read = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda handle, buffers, at: read(handle, [buffers[0][:100]], at)
    )
    taken = PixelCache(SHAPE, INDEX, file=file).take([3, 1])
    np.testing.assert_array_equal(taken, IMAGES[[3, 1]])


def test_file_that_was_cut_short_is_an_error(file):
    pixels = PixelCache(SHAPE, INDEX, file=file)
    os.truncate(file.path, IMAGES.nbytes - 1)
    pixels.take([COUNT - 2])
    with pytest.raises(OSError, match=f"ends inside row {COUNT - 1}"):
        pixels.take([COUNT - 1])


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 1, 3), (8, 1 << 20)])
def test_prefaulted_array_keeps_what_is_written_meanwhile(shape):
    array = cache.prefaulted(shape)
    array[:] = 7
    for thread in threading.enumerate():
        if thread.name == "prefault":
            thread.join()
    assert (array.shape, array.dtype) == (shape, np.uint8)
    assert (array == 7).all()


def test_cache_folder_follows_xdg(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for base in ("", "relative/is/no/base"):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert cache.default_folder() == Path("/home/someone/.cache/unfreeze")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert cache.default_folder() == Path("/var/cache/mine/unfreeze")


def test_cache_module_does_not_import_tensorflow():
    code = "import sys, pipelines.pixel_cache.cache; print('tensorflow' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "False\n"
