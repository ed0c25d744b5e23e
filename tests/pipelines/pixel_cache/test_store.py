"""Caches on the disk: full, damaged, shared with other runs, left behind by killed ones."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.core.errors import UserError
from pipelines.pixel_cache import index, store
from tests.pipelines.cached import (
    MEMORY,
    PLENTY,
    ROW,
    build,
    check,
    expected,
    folders,
    indices,
    spoil,
    taken,
    write,
)

pytestmark = pytest.mark.usefixtures("quick_decoding")

ROOT = Path(__file__).resolve().parents[3]


def test_cache_that_is_still_useful_stays(tmp_path, paths, cache, memory):
    others = write(tmp_path / "others", 4)
    build(others, cache, memory)  # of another dataset
    build(paths[:6], cache, memory)
    build(paths[3:], cache, memory)  # shares some images and lacks others
    assert len(folders(cache)) == 3
    spoil(*paths, *others)
    assert build(paths, cache, memory).broken == [], "from two caches, which it replaces"
    assert len(folders(cache)) == 2
    assert build(others, cache, memory).broken == []


def test_cache_of_unreachable_images_stays(tmp_path, paths, cache):
    """A drive that is unmounted for a while does not lose its cache."""
    others = write(tmp_path / "others", 4)
    build(others, cache)
    others[0].parent.rename(tmp_path / "elsewhere")
    build(paths, cache)
    assert len(folders(cache)) == 2
    (tmp_path / "elsewhere").rename(others[0].parent)
    spoil(*others)
    assert build(others, cache).broken == []


def test_obsolete_cache_stays_while_in_use(tmp_path, paths, cache):
    user = build(paths, cache, memory=0)
    wanted = expected(paths)
    more = [*paths, *write(tmp_path / "images", 12, first=10)]
    build(more, cache, PLENTY)
    assert len(folders(cache)) == 2
    np.testing.assert_array_equal(taken(user), wanted)
    del user
    build(more[:11], cache, PLENTY)
    build([*more, *write(tmp_path / "images", 13, first=12)], cache, PLENTY)
    assert len(folders(cache)) == 1


def change_columns(**columns):
    return lambda path: np.savez(path, **dict(np.load(path)) | columns)


def orientation_9(path: Path) -> None:
    facts = np.load(path)["facts"]
    facts["orientation"] = 9
    change_columns(facts=facts)(path)


DAMAGES = {
    "short pixels": ("pixels.u8", lambda path: os.truncate(path, 10 * ROW - 1)),
    "long pixels": ("pixels.u8", lambda path: os.truncate(path, 10 * ROW + 1)),
    "no pixels": ("pixels.u8", Path.unlink),
    "no index": ("index.npz", Path.unlink),
    "cut index": ("index.npz", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "other format": ("index.npz", change_columns(format=np.array(index.FORMAT - 1))),
    "other facts": ("index.npz", change_columns(facts=np.zeros(10, "S1"))),
    "too few facts": ("index.npz", change_columns(facts=np.zeros(1, index.FACTS))),
    "orientation": ("index.npz", orientation_9),
    "reasons are numbers": ("index.npz", change_columns(reasons=np.arange(10))),
    "too few reasons": ("index.npz", change_columns(reasons=np.zeros(8, np.uint8))),
}


@pytest.mark.parametrize(("file", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_cache_is_replaced(paths, cache, file, damage):
    build(paths, cache)
    (name,) = folders(cache)
    damage(cache / name / file)
    lines = []
    check(build(paths, cache, log=lines.append), expected(paths))
    assert lines[0].startswith("decoding 10 images")
    spoil(*paths)
    assert build(paths, cache, memory=0).broken == []
    assert name in folders(cache)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_flipped_bit_in_cached_pixels_is_decoded_again(paths, cache):
    """In memory: that image alone. From the disk: the run ends, and the next decodes all."""
    build(paths, cache)
    (name,) = folders(cache)
    for place in (0, 7 * ROW - 1):
        flip(cache / name / "pixels.u8", place)
        lines = []
        check(build(paths, cache, log=lines.append), expected(paths))
        assert lines[0].startswith("decoding 1 of 10 images")
    flip(cache / name / "pixels.u8", 3 * ROW)
    with pytest.raises(UserError, match=r"pixels.u8: 1 images are damaged; run the same command"):
        taken(build(paths, cache, memory=0))
    lines = []
    check(build(paths, cache, memory=0, log=lines.append), expected(paths))
    assert lines[0].startswith("decoding 10 images")


@pytest.mark.parametrize("fault", ["reserve", "space", "write", "publish", "folder"])
def test_run_continues_where_nothing_can_be_written(paths, cache, memory, fault, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fault == "space":
        monkeypatch.setattr(store, "RESERVED", 1.0)
    elif fault == "folder":
        cache.write_text("a file")
        cache = cache / "below"
    else:
        call = {"reserve": "posix_fallocate", "write": "pwrite", "publish": "fsync"}[fault]
        monkeypatch.setattr(os, call, full)
    paths[1].write_bytes(b"broken")
    lines = []
    result = build(paths, cache, memory, lines.append)
    assert indices(result) == [1]
    cached = memory or fault == "publish"
    what = "not a directory" if fault == "folder" else "no space left on device"
    (line,) = [line for line in lines if line.startswith(f"--cache_dir={cache}: {what}; ")]
    assert ("for this run alone" if cached else "every epoch decodes") in line
    assert len(lines) <= 2
    assert "\n" not in "".join(lines)
    if cached:
        np.testing.assert_array_equal(taken(result), expected([*paths[:1], *paths[2:]]))
    else:
        assert result.pixels is None
        assert (result.examples.rows == -1).all()
    assert fault == "folder" or folders(cache) == []


def test_second_of_two_writers_replaces_the_first_ones_cache(paths, cache):
    first = []

    def build_meanwhile(line):
        if line.startswith("decoding"):
            first.append(build(paths, cache, memory=0))

    second = build(paths, cache, memory=0, log=build_meanwhile)
    assert len(folders(cache)) == 1
    for result in (second, *first):
        check(result, expected(paths))


def start(images, cache, kind):
    command = [sys.executable, "-m", "tests.pipelines.cached", images, cache, kind]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, text=True, **pipes)


def resume(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_at_once_leave_one_cache(paths, cache):
    runs = [start(paths[0].parent, cache, kind) for kind in MEMORY]
    for word in ("decoded\n", "filled\n"):
        assert [run.stdout.readline() for run in runs] == [word, word]
        assert len(folders(cache)) == 2, "one of their own each"
        for run in runs:
            resume(run)
    assert [run.communicate(timeout=100)[0] for run in runs] == ["right\n", "right\n"]
    (name,) = folders(cache)
    assert store.PART not in name


@pytest.mark.parametrize(("kind", "moment"), [("disk", "decoded"), ("memory", "filled")])
def test_folder_of_a_killed_process_is_not_read_and_is_removed(paths, cache, kind, moment):
    run = start(paths[0].parent, cache, kind)
    while (word := run.stdout.readline()) != f"{moment}\n":
        assert word, run.communicate()[1]
        resume(run)
    (left,) = folders(cache)
    assert store.PART in left
    assert build(paths[:2], cache, memory=0).broken == []
    assert left in folders(cache), "its process is alive"
    run.send_signal(signal.SIGKILL)
    run.communicate()
    lines = []
    check(build(paths, cache, MEMORY[kind], lines.append), expected(paths))
    assert lines[0].startswith("decoding 8 of 10 images")
    (name,) = folders(cache)
    assert store.PART not in name


def test_memory_stays_flat_while_a_file_is_written_and_read(tmp_path, cache):
    """230 MB of pixels: only a few images are in this process at a time."""
    paths = write(tmp_path / "images", 30)
    size = (1600, 1600)
    build(paths[:8], cache, memory=0, size=size)  # what TensorFlow itself needs

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    result = build(paths, cache, memory=0, size=size)
    assert result.pixels.nbytes == 30 * 1600 * 1600 * 3
    for row in result.examples.rows:
        result.pixels.take(np.array([row]))
        assert resident() - before < result.pixels.nbytes * 0.75


def test_interrupt_while_decoding_leaves_nothing(paths, cache, memory):
    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(paths, cache, memory, interrupt)
    assert folders(cache) == []
