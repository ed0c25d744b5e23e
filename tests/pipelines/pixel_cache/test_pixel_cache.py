"""The cache: the pixels are those of `decode`, and nothing is decoded twice that is still there."""

import errno
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipelines.decode import decode
from pipelines.pixel_cache import pixel_cache
from pipelines.pixel_cache.pixel_plan import plan
from pipelines.pixel_cache.store import CacheLocation
from pipelines.sources.examples import from_columns
from tests.pipelines.cached import (
    KINDS,
    MEMORY,
    PLENTY,
    ROW,
    SIZE,
    decoded,
    expected,
    folders,
    image,
    look,
    spoil,
    taken,
    write,
)
from tests.pipelines.encoded_images import saved, tiff


@KINDS
def test_the_pixels_are_those_of_decode_and_a_second_run_decodes_nothing(paths, cache, memory):
    right = expected(paths)
    first = look(paths, cache, memory)
    assert first.pixels.in_memory == bool(memory)
    assert first.pixels.nbytes == len(paths) * ROW == right.nbytes
    np.testing.assert_array_equal(taken(first), right)
    np.testing.assert_array_equal(first.pixels.rows[first.examples.rows], right)
    for path in paths:
        spoil(path)
    for again in MEMORY.values():  # what memory had is found by one who has none, and conversely
        seen = look(paths, cache, again)
        assert seen.broken == []
        assert seen.pixels.in_memory == bool(again)
        np.testing.assert_array_equal(taken(seen), right)
        np.testing.assert_array_equal(seen.pixels.fingerprints, first.pixels.fingerprints)
        np.testing.assert_array_equal(seen.pixels.orientations, first.pixels.orientations)


@KINDS
@pytest.mark.parametrize("change", ["content", "time"])
def test_only_what_has_changed_is_decoded_again(paths, cache, memory, change):
    right = expected(paths)
    look(paths, cache, memory)
    if change == "content":
        paths[3].write_bytes(image(99) + b"longer")
        right[3] = decoded(paths[3])
    os.utime(paths[3], ns=(1, 10**18))
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        spoil(paths[number])
    lines = []
    seen = look(paths, cache, memory, lines.append)
    assert seen.broken == []
    assert lines[0].startswith("decoding 1 of 10 images at 24x20 into ")
    np.testing.assert_array_equal(taken(seen), right)
    assert len(folders(cache)) == 1  # the old one could serve nobody any more


@KINDS
def test_a_data_set_that_grew_decodes_what_is_new(tmp_path, paths, cache, memory):
    look(paths, cache, memory)
    right = expected(paths)
    for path in paths:
        spoil(path)
    more = write(tmp_path / "images", 13, first=10)
    mixed = [*more[:2], *paths[::-1], *more[2:]]
    seen = look(mixed, cache, memory)
    assert seen.broken == []
    np.testing.assert_array_equal(
        taken(seen), [*expected(more[:2]), *right[::-1], *expected(more[2:])]
    )
    assert len(folders(cache)) == 1


@KINDS
def test_a_part_of_the_data_is_found_in_the_whole(paths, cache, memory):
    right = expected(paths)
    look(paths, cache, memory)
    for path in paths:
        spoil(path)
    seen = look(paths[7:2:-2], cache, memory)
    assert seen.broken == []
    np.testing.assert_array_equal(taken(seen), right[7:2:-2])
    assert len(folders(cache)) == 1


@KINDS
def test_another_definition_is_another_cache(paths, cache, memory, monkeypatch):
    look(paths, cache, memory)
    for how in ({"size": (20, 24)}, {"resize": "crop"}):
        np.testing.assert_array_equal(
            taken(look(paths, cache, memory, **how)), expected(paths, **how)
        )
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    spoil(paths[0])
    assert [one.index for one in look(paths, cache, memory).broken] == [0]
    assert len(folders(cache)) == 4


@KINDS
def test_the_broken_are_remembered_with_their_reasons(paths, cache, memory):
    paths[2].write_bytes(b"not an image")
    paths[5].write_bytes(b"")
    paths[7].unlink()
    first = look(paths, cache, memory)
    assert [one.index for one in first.broken] == [2, 5, 7]
    assert first.broken[1].reason == "empty file"
    assert first.broken[2].reason == "no such file or directory"
    assert first.examples.rows[[2, 5, 7]].tolist() == [-1, -1, -1]
    assert not first.pixels.rows[2].any()  # and not what this process had in that memory before
    status = paths[2].stat()
    paths[2].write_bytes(image(1)[: status.st_size])
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    second = look(paths, cache, memory)
    assert [(one.index, one.path, one.reason) for one in second.broken] == [
        (one.index, one.path, one.reason) for one in first.broken
    ]
    np.testing.assert_array_equal(taken(second), taken(first))


@KINDS
def test_what_the_system_keeps_back_is_asked_for_again(paths, cache, memory, monkeypatch):
    """A right that was missing and is given back changes neither size nor time of a file."""
    allowed = os.access
    locked = os.fspath(paths[4])
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and allowed(path, mode))
    (broken,) = look(paths, cache, memory).broken
    assert (broken.index, broken.reason) == (4, "permission denied")
    assert len(look(paths, cache, memory).broken) == 1
    monkeypatch.undo()
    seen = look(paths, cache, memory)
    assert seen.broken == []
    np.testing.assert_array_equal(taken(seen), expected(paths))


@KINDS
def test_a_disk_that_fails_once_is_asked_again(tmp_path, cache, memory, monkeypatch):
    record = tmp_path / "records"
    record.write_bytes(image(0) + image(1))
    length = len(image(0))
    where = {"offsets": [0, length], "lengths": [length, len(image(1))]}
    read = os.pread

    def fails(handle, count, offset):
        if offset == length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(handle, count, offset)

    monkeypatch.setattr(os, "pread", fails)
    for _ in range(2):
        (broken,) = look([record] * 2, cache, memory, **where).broken
        assert (broken.index, broken.reason) == (1, "input/output error")
    monkeypatch.undo()
    seen = look([record] * 2, cache, memory, **where)
    assert seen.broken == []
    np.testing.assert_array_equal(taken(seen)[1], decode.decode(image(1), *SIZE))


@KINDS
def test_orientation_and_fingerprint(tmp_path, cache, memory):
    exif = b"Exif\0\0" + tiff(">", 6)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    contents = [
        saved(noise, "JPEG"),
        saved(noise, "JPEG", exif=exif),
        saved(noise, "PNG", exif=exif),
        saved(noise, "WEBP", exif=exif, lossless=True),
        saved(noise, "PNG"),
        saved(noise, "GIF"),
        saved(noise, "BMP"),
        saved(noise, "JPEG"),  # a copy of the first
    ]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    for _ in range(2):
        seen = look(paths, cache, memory)
        rows = seen.examples.rows
        assert seen.pixels.orientations[rows].tolist() == [1, 6, 6, 6, 1, 1, 1, 1]
        prints = seen.pixels.fingerprints[rows]
        assert prints[0] == prints[7]
        assert len(set(prints.tolist())) == 7
    np.testing.assert_array_equal(taken(seen), expected(paths))


@KINDS
def test_a_image_that_stands_twice_is_kept_once(paths, cache, memory):
    paths[1].write_bytes(b"broken")
    many = [*paths, *paths[::-1]]
    seen = look(many, cache, memory)
    assert [one.index for one in seen.broken] == [1, 18]
    assert seen.pixels.nbytes == len(paths) * ROW
    np.testing.assert_array_equal(taken(seen), expected([p for p in many if p != paths[1]]))


@KINDS
def test_images_inside_record_files(tmp_path, cache, memory):
    contents = [image(number) for number in range(5)]
    record = tmp_path / "records"
    record.write_bytes(b"head" + b"".join(contents))
    lengths = [len(content) for content in contents]
    where = {"offsets": 4 + np.cumsum([0, *lengths[:-1]]), "lengths": [*lengths[:-1], 10**6]}
    right = [decode.decode(content, *SIZE).numpy() for content in contents[:4]]
    for _ in range(2):
        seen = look([record] * 5, cache, memory, **where)
        assert [one.index for one in seen.broken] == [4]
        assert "ends before byte" in seen.broken[0].reason
        assert seen.broken[0].path == f"{record}@{where['offsets'][4]}"
        np.testing.assert_array_equal(taken(seen), right)
        spoil(record)
    os.utime(record, ns=(1, 10**18))
    assert len(look([record] * 5, cache, memory, **where).broken) == 5


@KINDS
def test_no_image_at_all(tmp_path, cache, memory):
    seen = look([tmp_path / "none.jpg"], cache, memory)
    assert len(seen.broken) == 1
    assert len(look([], cache, memory).broken) == 0
    assert seen.examples.rows.tolist() == [-1]


def test_without_a_folder_what_fits_is_kept_for_the_run(paths):
    lines = []
    seen = look(paths, None, PLENTY, lines.append)
    np.testing.assert_array_equal(taken(seen), expected(paths))
    assert look(paths, None, 10 * ROW - 1, lines.append).pixels is None
    assert len(lines) == 2
    assert "--cache_memory" in lines[1]


def test_the_lines_for_the_user(paths, cache):
    lines = []
    for memory in (10 * ROW, 10 * ROW - 1):
        look(paths, cache, memory, lines.append)
    assert lines == [
        f"decoding 10 images at 24x20 into memory, 0 MB, kept for later runs in {cache}",
        f"10 images at 24x20 from the cache in {cache}, 0 MB on the disk",
    ]


def test_find_takes_all_or_nothing(paths, cache):
    def find(some):
        names = [str(path) for path in some]
        examples = from_columns(names, [0] * len(names), ("a",), keys=names)
        return pixel_cache.find(
            plan(examples, SIZE, "squash", 2, print, CacheLocation(cache, PLENTY))
        )

    assert find(paths) is None
    look(paths[:8], cache)
    assert find(paths) is None
    np.testing.assert_array_equal(taken(find(paths[2:5])), expected(paths[2:5]))


def test_the_graph_of_the_look_is_that_of_decode(paths):
    """Kept pixels come out of tf.data, compared ones out of eager calls: both are one function."""
    contents = paths[0].read_bytes()
    graph = tf.function(lambda text: decode.decode(text, *SIZE))(tf.constant(contents))
    np.testing.assert_array_equal(graph, decoded(paths[0]))
