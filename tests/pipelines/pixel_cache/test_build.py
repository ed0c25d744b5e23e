"""Building the pixel cache: same pixels as `decode`, and no unchanged image is decoded twice."""

import errno
import os
import threading

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import decode
from pipelines.pixel_cache import build as building
from pipelines.pixel_cache import store
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.sources import examples
from tests.pipelines.cached import (
    MEMORY,
    PLENTY,
    ROW,
    SIZE,
    build,
    builder,
    check,
    expected,
    folders,
    image,
    indices,
    replace,
    spoil,
    taken,
    write,
)
from tests.pipelines.encoded_images import saved, tiff

pytestmark = pytest.mark.usefixtures("quick_decoding")


@pytest.mark.usefixtures("real_decode")
def test_second_run_has_the_decoded_pixels_without_decoding(paths, cache, memory):
    wanted = expected(paths)
    first = build(paths, cache, memory)
    check(first, wanted)
    assert first.pixels.in_memory == bool(memory)
    assert first.pixels.nbytes == len(paths) * ROW == wanted.nbytes
    spoil(*paths)
    for again in MEMORY.values():  # one kind of run finds what the other has cached
        second = build(paths, cache, again)
        check(second, wanted)
        assert second.pixels.in_memory == bool(again)
        assert np.array_equal(second.pixels.index.facts, first.pixels.index.facts)


@pytest.mark.parametrize("change", ["content", "time"])
def test_changed_file_alone_is_decoded_again(paths, cache, memory, change):
    wanted = expected(paths)
    build(paths, cache, memory)
    if change == "content":
        paths[3].write_bytes(image(99) + b"longer")
        wanted[3] = expected(paths[3:4])[0]
    os.utime(paths[3], ns=(1, 10**18))
    spoil(*paths[:3], *paths[4:])
    lines = []
    check(build(paths, cache, memory, lines.append), wanted)
    assert lines[0].startswith("decoding 1 of 10 images at 24x20 into ")
    assert len(folders(cache)) == 1, "the old one is obsolete"


def test_file_replaced_at_equal_size_and_time_is_decoded_again(paths, cache, memory):
    wanted = expected(paths)
    bitmap = saved(Image.fromarray(wanted[0]), "BMP")
    paths[3].write_bytes(bitmap)
    build(paths, cache, memory)
    replace(paths[3], saved(Image.fromarray(wanted[1]), "BMP"))
    wanted[3] = wanted[1]
    for _ in range(2):
        lines = []
        check(build(paths, cache, memory, lines.append), wanted)
        spoil(*paths)
    assert len(folders(cache)) == 1


def test_touched_files_are_read_once_and_not_decoded(paths, cache, memory):
    wanted = expected(paths)
    build(paths, cache, memory)
    for path in paths[2:5]:
        path.chmod(0o600)
    lines = []
    check(build(paths, cache, memory, lines.append), wanted)
    assert lines[0] == "reading 3 images again, whose files were touched since"
    assert "from the cache" in lines[1]
    spoil(*paths)
    lines.clear()
    check(build(paths, cache, memory, lines.append), wanted)
    assert len(lines) == 1


def test_subset_is_not_decoded_and_of_a_grown_dataset_only_new_images(
    tmp_path, paths, cache, memory
):
    build(paths, cache, memory)
    wanted = expected(paths)
    spoil(*paths)
    check(build(paths[7:2:-2], cache, memory), wanted[7:2:-2])
    new = write(tmp_path / "images", 13, first=10)
    mixed = build([*new[:2], *paths[::-1], *new[2:]], cache, memory)
    check(mixed, [*expected(new[:2]), *wanted[::-1], *expected(new[2:])])
    assert len(folders(cache)) == 1


def test_other_definition_has_its_own_cache(paths, cache, memory, monkeypatch):
    build(paths, cache, memory)
    for options in ({"size": (20, 24)}, {"resize": "crop"}):
        check(build(paths, cache, memory, **options), expected(paths, **options))
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    spoil(paths[0])
    assert indices(build(paths, cache, memory)) == [0]
    assert len(folders(cache)) == 4


def test_broken_images_are_remembered_with_their_reasons(paths, cache, memory):
    paths[2].write_bytes(b"not an image")
    paths[5].write_bytes(b"")
    paths[7].unlink()
    first = build(paths, cache, memory)
    assert indices(first) == [2, 5, 7]
    assert first.broken[2].reason == "no such file or directory"
    assert first.examples.rows[[2, 5, 7]].tolist() == [-1, -1, -1]
    if memory:
        assert not first.pixels.memory[2].any(), "not what this memory held before"
    second = build(paths, cache, memory)
    assert second.broken == first.broken
    np.testing.assert_array_equal(taken(second), taken(first))


def test_file_without_permission_is_tried_again_by_the_next_run(paths, cache, memory, monkeypatch):
    """A permission that is granted later changes neither size nor time of the file."""
    allowed, locked = os.access, os.fspath(paths[4])
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != locked and allowed(path, mode))
        for _ in range(2):
            (broken,) = build(paths, cache, memory).broken
            assert (broken.index, broken.reason) == (4, "permission denied")
    check(build(paths, cache, memory), expected(paths))


def test_read_error_is_tried_again_by_the_next_run(tmp_path, cache, memory, monkeypatch):
    record = tmp_path / "records"
    record.write_bytes(image(0) + image(1))
    lengths = [len(image(0)), len(image(1))]
    where = {"offsets": [0, lengths[0]], "lengths": lengths}
    read = examples.read_bytes

    def fails(path, offset, length):
        if offset:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(examples, "read_bytes", fails)
        for _ in range(2):
            (broken,) = build([record] * 2, cache, memory, where=where).broken
            assert (broken.index, broken.reason) == (1, "input/output error")
    result = build([record] * 2, cache, memory, where=where)
    check(result, [decode.decode(image(number), *SIZE) for number in range(2)])


@pytest.mark.usefixtures("real_decode")
def test_orientation_and_fingerprint_are_cached(tmp_path, cache):
    exif = b"Exif\0\0" + tiff(">", 6)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    kinds = ["JPEG", "PNG", "GIF", "BMP", "JPEG"]  # the last is a copy of the first
    contents = [saved(noise, kind) for kind in kinds]
    contents += [saved(noise, kind, exif=exif) for kind in ("JPEG", "PNG")]
    contents += [saved(noise, "WEBP", exif=exif, lossless=True)]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    for memory in MEMORY.values():
        result = build(paths, cache, memory)
        facts = result.pixels.index.facts[result.examples.rows]
        assert facts["orientation"].tolist() == [1] * 5 + [6] * 3
        _, firsts = np.unique(facts["fingerprint"], return_index=True)
        assert sorted(firsts) == [0, 1, 2, 3, 5, 6, 7]
    check(result, expected(paths))


def test_images_in_record_files_are_cached(tmp_path, cache, memory):
    contents = [image(number) for number in range(5)]
    record = tmp_path / "records"
    record.write_bytes(b"head" + b"".join(contents))
    lengths = list(map(len, contents))
    where = {"offsets": 4 + np.cumsum([0, *lengths[:-1]]), "lengths": [*lengths[:-1], 10**6]}
    wanted = [decode.decode(content, *SIZE).numpy() for content in contents[:4]]
    for _ in range(2):
        result = build([record] * 5, cache, memory, where=where)
        (broken,) = result.broken
        assert (broken.index, broken.path) == (4, f"{record}@{where['offsets'][4]}")
        assert "ends before byte" in broken.reason
        np.testing.assert_array_equal(taken(result), wanted)
        spoil(record)
    os.utime(record, ns=(1, 10**18))
    assert len(build([record] * 5, cache, memory, where=where).broken) == 5


def test_examples_without_files_have_no_rows(tmp_path, cache, memory):
    result = build([tmp_path / "none.jpg"], cache, memory)
    assert (indices(result), result.examples.rows.tolist()) == ([0], [-1])
    assert build([], cache, memory).broken == []


def test_without_folder_pixels_are_cached_in_memory_only(paths):
    lines = []
    check(build(paths, None, PLENTY, lines.append), expected(paths))
    assert build(paths, None, 10 * ROW - 1, lines.append).pixels is None
    assert len(lines) == 2
    assert "--cache_memory" in lines[1]


def test_images_are_only_scanned_where_nothing_may_be_cached(paths, monkeypatch):
    monkeypatch.setattr(building, "_MANY", 8)
    paths[0].write_bytes(b"broken")
    lines = []
    result = builder(paths, log=lines.append).build()
    assert indices(result) == [0]
    assert result.pixels is None
    assert set(result.examples.rows) == {-1}
    assert lines == ["decoding 10 images once, so that no broken one ends the run"]


def test_log_lines_name_count_size_and_folder(paths, cache):
    lines = []
    for memory in (10 * ROW, 10 * ROW - 1):
        build(paths, cache, memory, lines.append)
    assert lines == [
        f"decoding 10 images at 24x20 into memory, 14.4 kB, cached for later runs in {cache}",
        f"10 images at 24x20 from the cache in {cache}, 14.4 kB on the disk",
    ]


def test_open_existing_returns_all_images_or_none(paths, cache):
    location = CacheLocation(cache, PLENTY)
    assert builder(paths, location).open_existing() is None
    build(paths[:8], cache)
    assert builder(paths, location).open_existing() is None
    check(builder(paths[2:5], location).open_existing(), expected(paths[2:5]))


def test_writing_for_later_runs_gives_way_to_training(paths, cache):
    waiting, resume = threading.Event(), threading.Event()

    def give_way():
        waiting.set()
        assert resume.wait(60)

    pixels = builder(paths, CacheLocation(cache, PLENTY, give_way)).build().pixels
    assert waiting.wait(60)
    np.testing.assert_array_equal(pixels.memory, expected(paths))
    assert not [name for name in folders(cache) if store.PART not in name]
    resume.set()
    pixels.wait()
    (name,) = folders(cache)
    written = np.fromfile(cache / name / store.PIXELS, np.uint8)
    np.testing.assert_array_equal(written, expected(paths).reshape(-1))


@pytest.mark.parametrize("written", [False, True], ids=["before writing", "before flushing"])
def test_end_of_the_program_cancels_writing_and_leaves_nothing(paths, cache, written):
    calls = iter([written])

    def give_way():
        if not next(calls, False):
            raise InterruptedError("the program ends")

    lines = []
    builder(paths, CacheLocation(cache, PLENTY, give_way), lines.append).build().pixels.wait()
    assert folders(cache) == []
    assert len(lines) == 1, "nothing but that it decodes"
