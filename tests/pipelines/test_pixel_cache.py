"""The cache: the pixels are those of `decode`, and nothing is decoded twice that is still there."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from engine.specs import DataSpec, Phase, Recipe
from pipelines import decode, pixel_cache, pixel_files, ready
from pipelines.examples import from_columns
from pipelines.pixel_plan import plan
from pipelines.pixels import Place
from tests.pipelines.cached import (
    MEMORY,
    PLENTY,
    ROW,
    SIZE,
    decoded,
    folders,
    look,
    picture,
    spoil,
    taken,
    write,
)
from tests.pipelines.pictures import saved, tiff

ROOT = Path(__file__).resolve().parents[2]
KINDS = pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)


@pytest.fixture
def paths(tmp_path):
    return write(tmp_path / "pictures", 10)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def expected(paths, **how):
    return np.stack([decoded(path, **how) for path in paths])


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
        assert seen.broken == [] and seen.pixels.in_memory == bool(again)
        np.testing.assert_array_equal(taken(seen), right)
        np.testing.assert_array_equal(seen.pixels.fingerprints, first.pixels.fingerprints)
        np.testing.assert_array_equal(seen.pixels.orientations, first.pixels.orientations)


@KINDS
@pytest.mark.parametrize("change", ["content", "time"])
def test_only_what_has_changed_is_decoded_again(paths, cache, memory, change):
    right = expected(paths)
    look(paths, cache, memory)
    if change == "content":
        paths[3].write_bytes(picture(99) + b"longer")
        right[3] = decoded(paths[3])
    os.utime(paths[3], ns=(1, 10**18))
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        spoil(paths[number])
    lines = []
    seen = look(paths, cache, memory, lines.append)
    assert seen.broken == []
    assert lines[0].startswith("decoding 1 of 10 pictures at 24x20 into ")
    np.testing.assert_array_equal(taken(seen), right)
    assert len(folders(cache)) == 1  # the old one could serve nobody any more


@KINDS
def test_a_data_set_that_grew_decodes_what_is_new(tmp_path, paths, cache, memory):
    look(paths, cache, memory)
    right = expected(paths)
    for path in paths:
        spoil(path)
    more = write(tmp_path / "pictures", 13, first=10)
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
def test_folders_that_still_serve_stay(tmp_path, paths, cache, memory):
    others = write(tmp_path / "others", 4)
    look(others, cache, memory)  # of another data set
    look(paths[:6], cache, memory)
    look(paths[3:], cache, memory)  # shares some, and lacks others
    assert len(folders(cache)) == 3
    for path in (*paths, *others):
        spoil(path)
    seen = look(paths, cache, memory)  # from two folders, and in place of both
    assert seen.broken == [] and len(folders(cache)) == 2
    assert look(others, cache, memory).broken == []


def test_an_outlived_folder_stays_while_it_is_in_use(tmp_path, paths, cache):
    user = look(paths, cache, memory=0)
    right = expected(paths)
    more = [*paths, *write(tmp_path / "pictures", 12, first=10)]
    look(more, cache, PLENTY)
    assert len(folders(cache)) == 2
    np.testing.assert_array_equal(taken(user), right)


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
    paths[2].write_bytes(b"not a picture")
    paths[5].write_bytes(b"")
    paths[7].unlink()
    first = look(paths, cache, memory)
    assert [one.index for one in first.broken] == [2, 5, 7]
    assert first.broken[1].reason == "empty file"
    assert first.broken[2].reason == "no such file or directory"
    assert first.examples.rows[[2, 5, 7]].tolist() == [-1, -1, -1]
    status = paths[2].stat()
    paths[2].write_bytes(picture(1)[: status.st_size])
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
        assert prints[0] == prints[7] and len(set(prints.tolist())) == 7
    np.testing.assert_array_equal(taken(seen), expected(paths))


@KINDS
def test_a_picture_that_stands_twice_is_kept_once(paths, cache, memory):
    paths[1].write_bytes(b"broken")
    many = [*paths, *paths[::-1]]
    seen = look(many, cache, memory)
    assert [one.index for one in seen.broken] == [1, 18]
    assert seen.pixels.nbytes == len(paths) * ROW
    np.testing.assert_array_equal(taken(seen), expected([p for p in many if p != paths[1]]))


@KINDS
def test_pictures_inside_record_files(tmp_path, cache, memory):
    contents = [picture(number) for number in range(5)]
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
def test_no_picture_at_all(tmp_path, cache, memory):
    seen = look([tmp_path / "none.jpg"], cache, memory)
    assert len(seen.broken) == 1 and len(look([], cache, memory).broken) == 0
    assert seen.examples.rows.tolist() == [-1]


@KINDS
@pytest.mark.parametrize(
    "damage", ["index", "cut", "longer", "no pixels", "no index", "other format"]
)
def test_a_damaged_folder_is_made_anew(paths, cache, memory, damage, monkeypatch):
    look(paths, cache, memory)
    (name,) = folders(cache)
    pixels, index = cache / name / "pixels.u8", cache / name / "index.npz"
    contents = index.read_bytes()
    if damage == "index":
        index.write_bytes(contents[: len(contents) // 2])
    elif damage == "cut":
        os.truncate(pixels, len(paths) * ROW - 1)
    elif damage == "longer":
        os.truncate(pixels, len(paths) * ROW + 1)
    elif damage == "other format":
        monkeypatch.setattr("pipelines.pixel_index.FORMAT", 0)
    else:
        (pixels if damage == "no pixels" else index).unlink()
    lines = []
    seen = look(paths, cache, memory, lines.append)
    assert lines[0].startswith("decoding 10 pictures")
    np.testing.assert_array_equal(taken(seen), expected(paths))
    for path in paths:
        spoil(path)
    assert look(paths, cache, memory).broken == []
    assert name in folders(cache)


@pytest.mark.parametrize("how", ["reserve", "room", "write", "publish", "folder"])
@KINDS
def test_where_nothing_can_be_written_the_run_goes_on(paths, cache, memory, how, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if how == "reserve":
        monkeypatch.setattr(os, "posix_fallocate", full)
    elif how == "room":
        monkeypatch.setattr(pixel_files, "SPARE", 1.0)
    elif how == "write":
        monkeypatch.setattr(os, "pwrite", full)
    elif how == "publish":
        monkeypatch.setattr(os, "fsync", full)
    else:
        cache.write_text("a file")
        cache = cache / "below"
    paths[1].write_bytes(b"broken")
    lines = []
    seen = look(paths, cache, memory, lines.append)
    assert [one.index for one in seen.broken] == [1]
    kept = memory or how == "publish"
    what = "not a directory" if how == "folder" else "no space left on device"
    (line,) = [line for line in lines if line.startswith(f"--cache_dir={cache}: {what}; ")]
    assert ("for this run alone" if kept else "every epoch decodes") in line
    assert len(lines) <= 2 and "\n" not in "".join(lines)
    if kept:
        np.testing.assert_array_equal(taken(seen), expected([*paths[:1], *paths[2:]]))
    else:
        assert seen.pixels is None and (seen.examples.rows == -1).all()
    assert how == "folder" or folders(cache) == []


def test_without_a_folder_what_fits_is_kept_for_the_run(paths):
    lines = []
    seen = look(paths, None, PLENTY, lines.append)
    np.testing.assert_array_equal(taken(seen), expected(paths))
    assert look(paths, None, 10 * ROW - 1, lines.append).pixels is None
    assert len(lines) == 2 and "--cache_memory" in lines[1]


def test_the_lines_for_the_user(paths, cache):
    lines = []
    for memory in (10 * ROW, 10 * ROW - 1):
        look(paths, cache, memory, lines.append)
    assert lines == [
        f"decoding 10 pictures at 24x20 into memory, 0 MB, kept for later runs in {cache}",
        f"10 pictures at 24x20 from the cache in {cache}, 0 MB on the disk",
    ]


def test_who_comes_second_gives_way(paths, cache):
    """Another run fills and publishes the same while this one is still at it."""
    inside = []

    def meanwhile(line):
        if line.startswith("decoding"):
            inside.append(look(paths, cache, memory=0))

    outer = look(paths, cache, memory=0, say=meanwhile)
    (name,) = folders(cache)
    for seen in (outer, *inside):
        np.testing.assert_array_equal(taken(seen), expected(paths))
    (cache / name / "pixels.u8").write_bytes(b"\7" * 10 * ROW)  # both read this one
    for seen in (outer, *inside):
        assert (taken(seen) == 7).all()


def start(pictures, cache, kind):
    command = [sys.executable, "-m", "tests.pipelines.cached", pictures, cache, kind]
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, text=True, **pipes)


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("kind", MEMORY)
def test_two_runs_at_once(paths, cache, kind):
    runs = [start(paths[0].parent, cache, kind) for _ in range(2)]
    for word in ("decoded\n", "filled\n"):
        assert [run.stdout.readline() for run in runs] == [word, word]
        if word == "filled\n":
            assert len(folders(cache)) == 2  # a part each
        for run in runs:
            go_on(run)
    assert [run.communicate(timeout=100)[0] for run in runs] == ["right\n", "right\n"]
    (name,) = folders(cache)
    assert pixel_files.PART not in name


@pytest.mark.parametrize("kind", MEMORY)
@pytest.mark.parametrize("moment", ["decoded", "filled"])
def test_what_a_killed_run_leaves_is_no_cache_and_is_removed(paths, cache, kind, moment):
    run = start(paths[0].parent, cache, kind)
    while (word := run.stdout.readline()) != f"{moment}\n":
        assert word, run.communicate()[1]
        go_on(run)
    (left,) = folders(cache)
    assert pixel_files.PART in left
    assert look(paths[:2], cache, memory=0).broken == []
    assert left in folders(cache)  # its maker lives
    run.send_signal(signal.SIGKILL)
    run.communicate()
    lines = []
    seen = look(paths, cache, MEMORY[kind], lines.append)
    assert lines[0].startswith("decoding 8 of 10 pictures")
    np.testing.assert_array_equal(taken(seen), expected(paths))
    (name,) = folders(cache)
    assert pixel_files.PART not in name


def test_the_memory_stays_flat_while_a_file_is_filled_and_read(tmp_path, cache):
    """300 MB of pixels: only those under way are in this process."""
    paths = write(tmp_path / "pictures", 40)
    size = (1600, 1600)
    look(paths[:8], cache, memory=0, size=size)  # TensorFlow's own needs

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    seen = look(paths, cache, memory=0, size=size)
    assert seen.pixels.nbytes == 40 * 1600 * 1600 * 3
    for row in seen.examples.rows:
        seen.pixels.take(np.array([row]))
        assert resident() - before < 100e6


def test_interrupted_while_filling(paths, cache):
    def interrupt(line):
        raise KeyboardInterrupt

    for memory in MEMORY.values():
        with pytest.raises(KeyboardInterrupt):
            look(paths, cache, memory, interrupt)
        assert folders(cache) == []


def recipe(folder):
    data = DataSpec("folders", str(folder), validation_fraction=0.25)
    phases = (Phase("transfer"),)
    return Recipe(data=data, phases=phases, backbone="efficientnet_lite0", image_size=SIZE)


def test_from_a_recipe(coloured, cache, tmp_path):
    report = tmp_path / "bad.csv"
    lines = []
    place = Place(cache, PLENTY)
    examples, pixels = ready.to_train(recipe(coloured), report, 2, lines.append, place)
    pixels.wait()
    for part in ("train", "validation"):
        some = examples.part(part)
        np.testing.assert_array_equal(pixels.take(some.rows), expected(some.paths))
    found, pixels = ready.to_measure(
        recipe(coloured), examples.classes, "validation", 2, lines.append, place
    )
    assert not pixels.in_memory
    np.testing.assert_array_equal(pixels.take(found.rows), expected(found.paths))
    assert len(lines) == 1
    elsewhere = Place(tmp_path / "none", PLENTY)
    for nowhere in (elsewhere, None):
        found, pixels = ready.to_measure(
            recipe(coloured), examples.classes, "all", 2, lines.append, nowhere
        )
        assert pixels is None and len(found) == 52 and (found.rows == -1).all()
    examples, pixels = ready.to_train(recipe(coloured), report, 2, lines.append)
    assert pixels is None and len(examples) == 52


def test_find_takes_all_or_nothing(paths, cache):
    def find(some):
        names = [str(path) for path in some]
        examples = from_columns(names, [0] * len(names), ("a",), keys=names)
        return pixel_cache.find(plan(examples, SIZE, "squash", 2, print, Place(cache, PLENTY)))

    assert find(paths) is None
    look(paths[:8], cache)
    assert find(paths) is None
    np.testing.assert_array_equal(taken(find(paths[2:5])), expected(paths[2:5]))


def test_the_graph_of_the_look_is_that_of_decode(paths):
    """Kept pixels come out of tf.data, compared ones out of eager calls: both are one function."""
    contents = paths[0].read_bytes()
    graph = tf.function(lambda text: decode.decode(text, *SIZE))(tf.constant(contents))
    np.testing.assert_array_equal(graph, decoded(paths[0]))
