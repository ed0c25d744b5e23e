"""bin/predict --out: rows and decisions, interruptions and resuming, mistakes."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.commands.prediction_progress import PredictionProgress
from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.inference.predictions_file import PredictionCounts, PredictionsFile
from engine.runtime.shutdown import ShutdownRequested
from tests.bin.programs import start
from tests.engine import saved_run
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import saved
from tests.pipelines.web_server import Handler, Server

MANY = 1500


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> str:
    """The flag for a run whose rule leaves what is not clear uncertain."""
    place = tmp_path_factory.mktemp("run") / "run"
    return f"--run_dir={saved_run.save(place, DecisionRule(1.5, abstain=0.4)).path}"


@pytest.fixture(scope="module")
def many(coloured, tmp_path_factory) -> Path:
    """A folder of as many links to images, a tenth of them broken."""
    folder = tmp_path_factory.mktemp("many")
    files = sorted(coloured.rglob("*.jpg"))
    (folder / "broken").write_bytes(b"no image")
    for number in range(MANY):
        broken = number % 10 == 3
        (folder / f"{number:04}.jpg").symlink_to(
            folder / "broken" if broken else files[number % 52]
        )
    return folder


def rows(path: Path) -> list[dict]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("total", "done", "said"),
    [(1, 1, "1 image"), (2, 1, "1 of 2 images"), (2, 2, "2 images")],
)
def test_progress_describes_images_done(total, done, said):
    with PredictionProgress() as progress:
        progress.start(total, PredictionCounts(rows=done))
        assert progress.describe() == said


def test_file_has_a_row_an_image_with_the_printed_probabilities(call, run_dir, coloured, tmp_path):
    path = tmp_path / "a.csv"
    out = call("predict", "--top_k=3", "--precision=float32", f"--out={path}", run_dir, coloured)
    assert "52 images, " in out
    assert out.endswith(f"written to {path}\n")
    printed = json.loads(call("predict", "--format=json", run_dir, coloured))
    for row, answer in zip(rows(path), printed, strict=True):
        assert row["path"] == answer["path"]
        for rank, one in enumerate(answer["predictions"], 1):
            assert row[f"label_{rank}"] == one["label"]
            assert np.float32(row[f"probability_{rank}"]) == np.float32(one["probability"])
    info = json.loads((tmp_path / "a.csv.json").read_text())
    assert info["program"]["policy"] == "float32"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.csv", "a.csv.json"]


def test_file_has_the_decision_of_the_rule(call, run_dir, coloured, tmp_path):
    call("predict", run_dir, f"--out={tmp_path / 'a.jsonl'}", "--top_k=3", coloured)
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    assert len({row["decision"] for row in found}) > 1
    for row in found:
        likeliest = row["predictions"][0]
        certain = likeliest["probability"] >= 0.4
        assert row["decision"] == (likeliest["label"] if certain else "uncertain")


def part(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}.part").stat().st_size
    except FileNotFoundError:
        return 0


UNREAD = "predict: 150 of 1,500 images could not be read; the others are predicted\n"


@pytest.fixture(scope="module")
def whole(run_dir, many, tmp_path_factory):
    """The command for all of `many`, and by ending what it writes where nothing comes between."""
    place = tmp_path_factory.mktemp("whole")
    command = ("predict", run_dir, "--precision=float32", "--threads=1", many)

    def written(ending: str) -> tuple[tuple, bytes]:
        path = place / f"answers.{ending}"
        if not path.exists():
            process = start(*command, f"--out={path}")
            _, err = process.communicate(timeout=300)
            assert process.returncode == 1, err
            assert err.endswith(UNREAD)
        return command, path.read_bytes()

    return written


@pytest.mark.parametrize(
    ("ending", "signals"),
    [
        ("csv", (signal.SIGKILL, signal.SIGTERM)),
        pytest.param(
            "jsonl", (signal.SIGKILL, signal.SIGTERM, signal.SIGINT), marks=pytest.mark.slow
        ),
    ],
)
def test_killed_at_random_moments_resumes_to_the_same_bytes(whole, tmp_path, ending, signals):
    command, wanted = whole(ending)
    path, seed = tmp_path / f"killed.{ending}", random.randrange(2**32)
    print("seed of the moments:", seed)
    moments, killed = random.Random(seed), 0
    for number in signals:
        before = part(path)
        process = start(*command, f"--out={path}", start_new_session=True)
        while process.poll() is None and part(path) <= before:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, number)
        _, err = process.communicate(timeout=300)
        if process.returncode == 1:
            break
        killed += 1
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), err
        if number != signal.SIGKILL:
            assert err.splitlines()[-1].startswith(f"predict: stopped by {number.name}; ")
        assert not path.exists()
    assert killed
    if not path.exists():
        process = start(*command, f"--out={path}")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        assert "1,500 images" in out
        assert f"of {MANY:,} images" in err, "where it resumes"
        assert err.endswith(f"predict: and 140 more\n{UNREAD}")
        assert err.count(": not an image") == 10
    assert path.read_bytes() == wanted
    assert wanted.count(b"\n") == MANY + (ending == "csv")


def test_resuming_predicts_the_images_of_the_first_start(
    call, run_dir, many, tmp_path, monkeypatch
):
    """Images that came or went meanwhile change no row."""
    folder, path = tmp_path / "images", tmp_path / "a.csv"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:04}.jpg").symlink_to(os.readlink(many / f"{number:04}.jpg"))
    command = ("predict", run_dir, f"--out={path}", folder)
    add = PredictionsFile.add

    def interrupted(file, rows):
        add(file, rows)
        raise ShutdownRequested("SIGINT")

    with monkeypatch.context() as patch:
        patch.setattr(PredictionsFile, "add", interrupted)
        with pytest.raises(ShutdownRequested):
            call(*command)
    assert part(path) > 200
    (folder / "0000a.jpg").symlink_to(os.readlink(many / "0000.jpg"))
    (folder / "0099.jpg").unlink()
    with pytest.raises(UserError, match=r"^11 of 100 images could not be read"):
        call(*command)
    assert "resuming after " in call.said.err
    found = rows(path)
    assert [Path(row["path"]).name for row in found] == [f"{n:04}.jpg" for n in range(100)]
    assert found[-1]["problem"] == "can't be read: No such file or directory"


@pytest.mark.slow
def test_sigterm_among_broken_images_ends_the_program(run_dir, tmp_path):
    """Where TensorFlow raises one error after another, and no group is full before the end."""
    folder, seed = tmp_path / "images", random.randrange(2**32)
    print("seed of the moment:", seed)
    folder.mkdir()
    (tmp_path / "broken").write_bytes(b"no image")
    for number in range(30_000):
        (folder / f"{number:05}.jpg").symlink_to(tmp_path / "broken")
    path = tmp_path / "a.csv"
    process = start("predict", run_dir, f"--out={path}", folder)
    while process.poll() is None and part(path) < 200:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 3))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert err.splitlines()[-1].startswith("predict: stopped by SIGTERM")
    assert part(path) > 1000, "what was found out is kept"


def test_bad_files_and_odd_names_have_a_row_each(call, run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    laid = bad_images.lay_out(tmp_path / "images")
    odd = [b"\xff\xfe good.jpg", b"two\nlines good.jpg", b"=1+1 good.jpg"]
    inside = [os.path.join("images", os.fsdecode(name)) for name in odd]
    for number, name in enumerate(inside):
        Path(name).write_bytes(saved(bad_images.noisy(np.random.default_rng(number)), "JPEG"))
    with pytest.raises(UserError, match=r"^\d+ of \d+ images could not be read") as ended:
        call("predict", run_dir, "--out=a.csv", "--top_k=2", "images", *inside)
    written = rows(tmp_path / "a.csv")
    found = {row["path"]: row for row in written}
    named = {str(file.relative_to(tmp_path)) for file in laid.bad}
    listed = {name for name in named if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png")}
    assert listed <= found.keys()
    assert all(found[name]["problem"] and not found[name]["label_1"] for name in listed)
    assert all(found[name]["label_2"] and not found[name]["problem"] for name in inside)
    unread = sum(bool(row["problem"]) for row in written)
    assert str(ended.value).startswith(f"{unread:,} of {len(written):,} images could not")
    err = call.said.err
    assert err.endswith(f"predict: and {unread - 10:,} more\n")
    assert err.count("\n") < 20


def test_closed_streams_leave_the_file_intact(run_dir, coloured, tmp_path):
    def close_streams():
        os.closerange(0, 3)

    command = ("predict", run_dir, "--out=a.jsonl", coloured / "red", "no.jpg")
    (tmp_path / "no.jpg").touch()
    process = start(*command, cwd=tmp_path, preexec_fn=close_streams)
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 1, "of one image that can't be read"
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    assert [Path(row["path"]).name for row in found if row["problem"]] == ["no.jpg"]


@pytest.mark.parametrize("flags", [[], ["--out=o.csv"]])
def test_unreadable_images_alone_are_an_error(call, run_dir, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"^no image could be read$"):
        call("predict", run_dir, *flags, "a.jpg")
    assert call.said.err.endswith(" a.jpg: empty file\n")
    assert not flags or [row["problem"] for row in rows(tmp_path / "o.csv")] == ["empty file"]


class Images(Handler):
    """Serves one image under any name that the other does not know."""

    def image(self):
        self.answer("image/png", saved(bad_images.COLOUR, "PNG"))


def test_addresses_and_files_share_a_list(call, run_dir, coloured, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = str(coloured / "red" / "00.jpg")
    with Server() as server:
        server.RequestHandlerClass = Images
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        words = [server.address("good"), file, server.address("page"), server.address("inside")]
        command = ("predict", run_dir, *words)
        with pytest.raises(UserError, match=r"^2 of 4 images could not be read"):
            call(*command, f"--out={tmp_path / 'a.csv'}", "--allow_private_urls")
        requests = len(server.paths)
        with pytest.raises(UserError, match="not on the public internet; --allow_private_urls"):
            call(*command, f"--out={tmp_path / 'b.csv'}")
        server.over.set()
        server.shutdown()
        thread.join()
        assert len(server.paths) == requests, "without the flag no private host is contacted"
    assert [row["path"] for row in rows(tmp_path / "a.csv")] == words
    problems = [row["problem"] for row in rows(tmp_path / "a.csv")]
    assert problems[:2] == ["", ""]
    assert problems[2].startswith("returns text/html")
    assert not (tmp_path / "b.csv").exists()


def test_part_of_other_options_is_refused(call, run_dir, coloured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = f"--run_dir={saved_run.save(tmp_path / 'other', DecisionRule(2.0)).path}"
    (tmp_path / "images").symlink_to(coloured)
    monkeypatch.setattr(PredictionsFile, "finish", lambda file: None)  # as interrupted before it
    command = ("predict", "--out=a.csv")
    call(*command, run_dir, "images")
    for flags, words in {
        (other, "images"): "another model",
        (run_dir, "--top_k=2", "images"): "--top_k=1",
        (run_dir, "--tta=flip", "images"): "no --tta",
        (run_dir, tmp_path / "images"): "relative names from another folder",
    }.items():
        with pytest.raises(UserError, match=f"a.csv.part was started with {words}; continue with"):
            call(*command, *flags)
