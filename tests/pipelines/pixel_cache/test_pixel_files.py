"""The cache on the disk: full, damaged, shared with other runs, and left behind by killed ones."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.pixel_cache import pixel_files
from tests.pipelines.cached import (
    KINDS,
    MEMORY,
    PLENTY,
    ROW,
    expected,
    folders,
    look,
    spoil,
    taken,
    write,
)

ROOT = Path(__file__).resolve().parents[3]


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
    assert seen.broken == []
    assert len(folders(cache)) == 2
    assert look(others, cache, memory).broken == []


def test_images_that_are_out_of_sight_are_not_outlived(tmp_path, paths, cache):
    """A drive that is not there for a while takes no cache with it."""
    others = write(tmp_path / "others", 4)
    look(others, cache)
    others[0].parent.rename(tmp_path / "elsewhere")
    look(paths, cache)
    assert len(folders(cache)) == 2
    (tmp_path / "elsewhere").rename(others[0].parent)
    for path in others:
        spoil(path)
    assert look(others, cache).broken == []


def test_an_outlived_folder_stays_while_it_is_in_use(tmp_path, paths, cache):
    user = look(paths, cache, memory=0)
    right = expected(paths)
    more = [*paths, *write(tmp_path / "images", 12, first=10)]
    look(more, cache, PLENTY)
    assert len(folders(cache)) == 2
    np.testing.assert_array_equal(taken(user), right)


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
        monkeypatch.setattr("pipelines.pixel_cache.pixel_index.FORMAT", 0)
    else:
        (pixels if damage == "no pixels" else index).unlink()
    lines = []
    seen = look(paths, cache, memory, lines.append)
    assert lines[0].startswith("decoding 10 images")
    np.testing.assert_array_equal(taken(seen), expected(paths))
    for path in paths:
        spoil(path)
    assert look(paths, cache, memory).broken == []
    assert name in folders(cache)


@pytest.mark.parametrize(
    "column",
    [
        {"stamps": np.zeros(10, "S1")},
        {"fingerprints": np.zeros(1, np.int64)},
        {"orientations": np.full(10, 9, np.uint8)},
        {"broken": np.array([1]), "reasons": np.array([3])},
        {"broken": np.array(1), "reasons": np.array("cut off")},
    ],
    ids=["stamps", "too few", "orientation", "no words", "no row"],
)
def test_an_index_of_another_form_is_passed_over(paths, cache, column):
    look(paths, cache)
    (name,) = folders(cache)
    index = cache / name / "index.npz"
    np.savez(index, **dict(np.load(index)) | column)
    lines = []
    np.testing.assert_array_equal(taken(look(paths, cache, say=lines.append)), expected(paths))
    assert lines[0].startswith("decoding 10 images")


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
    assert len(lines) <= 2
    assert "\n" not in "".join(lines)
    if kept:
        np.testing.assert_array_equal(taken(seen), expected([*paths[:1], *paths[2:]]))
    else:
        assert seen.pixels is None
        assert (seen.examples.rows == -1).all()
    assert how == "folder" or folders(cache) == []


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


def start(images, cache, kind):
    command = [sys.executable, "-m", "tests.pipelines.cached", images, cache, kind]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
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
    assert lines[0].startswith("decoding 8 of 10 images")
    np.testing.assert_array_equal(taken(seen), expected(paths))
    (name,) = folders(cache)
    assert pixel_files.PART not in name


def test_the_memory_stays_flat_while_a_file_is_filled_and_read(tmp_path, cache):
    """460 MB of pixels: only those under way are in this process."""
    paths = write(tmp_path / "images", 60)
    size = (1600, 1600)
    look(paths[:8], cache, memory=0, size=size)  # TensorFlow's own needs

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    seen = look(paths, cache, memory=0, size=size)
    assert seen.pixels.nbytes == 60 * 1600 * 1600 * 3
    for row in seen.examples.rows:
        seen.pixels.take(np.array([row]))
        assert resident() - before < seen.pixels.nbytes / 2


def test_interrupted_while_filling(paths, cache):
    def interrupt(line):
        raise KeyboardInterrupt

    for memory in MEMORY.values():
        with pytest.raises(KeyboardInterrupt):
            look(paths, cache, memory, interrupt)
        assert folders(cache) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_can_not_keep_names_is_no_failure(tmp_path, monkeypatch, number):
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    pixel_files._sync(tmp_path)
