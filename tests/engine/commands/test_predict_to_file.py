"""bin/predict --out: rows and decisions, interruptions and resuming, mistakes."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.cli.flags import FlagError
from engine.commands.prediction_progress import PredictionProgress
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.inference.predictions_file import PredictionCounts, PredictionsFile
from engine.runs.load_run import load_run
from engine.runtime.shutdown import ShutdownRequested
from pipelines.decode.decode import decode
from tests.bin.programs import run, start
from tests.engine import saved_run
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import saved
from tests.pipelines.web_server import Handler, Server

MANY = 1500


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose rule leaves what is not clear uncertain."""
    return saved_run.save(tmp_path_factory.mktemp("run") / "run", DecisionRule(1.5, abstain=0.4))


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


def test_file_has_a_row_an_image_with_the_printed_probabilities(call, trained, coloured, tmp_path):
    flags = (f"--run_dir={trained.path}", coloured)
    out = call("predict", "--top_k=3", "--precision=float32", f"--out={tmp_path / 'a.csv'}", *flags)
    assert "52 images, " in out
    assert out.endswith(f"written to {tmp_path / 'a.csv'}\n")
    found = rows(tmp_path / "a.csv")
    printed = json.loads(call("predict", "--format=json", *flags))
    assert [row["path"] for row in found] == [row["path"] for row in printed]
    for row, answer in zip(found, printed, strict=True):
        for rank, one in enumerate(answer["predictions"], 1):
            assert row[f"label_{rank}"] == one["label"]
            assert np.float32(row[f"probability_{rank}"]) == np.float32(one["probability"])
    made = json.loads((tmp_path / "a.csv.json").read_text())
    assert made["program"]["policy"] == "float32"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.csv", "a.csv.json"]


def test_file_has_the_decision_of_the_rule(call, trained, coloured, tmp_path):
    call("predict", f"--run_dir={trained.path}", f"--out={tmp_path / 'a.jsonl'}", coloured)
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    opened = load_run(trained)
    images = np.stack([decode(Path(row["path"]).read_bytes(), 32, 32).numpy() for row in found])
    logits = opened.model(images.astype(np.float32), training=False)
    chances = decision_rule.probabilities(opened.rule, logits)
    clear = np.abs(chances.max(-1) - 0.4) > 1e-4
    wanted = np.where(
        chances.max(-1) < 0.4, "uncertain", np.array(opened.classes)[chances.argmax(-1)]
    )
    assert len(set(wanted)) > 1
    assert clear.mean() > 0.9
    mine = np.array([row["decision"] for row in found])
    assert np.array_equal(mine[clear], wanted[clear])
    assert {len(row["predictions"]) for row in found} == {1}


def part(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}.part").stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture(scope="module")
def whole(trained, many, tmp_path_factory):
    """The command for all of `many`, and by ending what it writes where nothing comes between."""
    place = tmp_path_factory.mktemp("whole")
    command = ("predict", f"--run_dir={trained.path}", "--precision=float32", "--threads=1", many)

    def written(ending: str) -> tuple[tuple, bytes]:
        path = place / f"answers.{ending}"
        if not path.exists():
            run(*command, f"--out={path}")
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
    chance, killed = random.Random(seed), 0
    for number in signals:
        before = part(path)
        process = start(*command, f"--out={path}", start_new_session=True)
        while process.poll() is None and part(path) <= before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, number)
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            break
        killed += 1
        assert process.returncode == (-9 if number == signal.SIGKILL else 75), err
        if number != signal.SIGKILL:
            last = err.splitlines()[-1]
            assert last.startswith(f"predict: stopped by {number.name}; ")
        assert not path.exists()
        assert wanted.startswith(path.with_name(f"{path.name}.part").read_bytes()[:100])
    assert killed
    if not path.exists():
        process = start(*command, f"--out={path}")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "1,500 images" in out
        assert f"of {MANY:,} images" in err, "where it resumes"
        assert "predict: 150 of 1,500 could not be read; the first 10:" in err
        assert err.count(": not an image") == 10
    assert path.read_bytes() == wanted
    assert wanted.count(b"\n") == MANY + (ending == "csv")


def test_resuming_predicts_the_images_of_the_first_start(
    call, trained, many, tmp_path, monkeypatch
):
    """Images that came or went meanwhile change no row."""
    folder, path = tmp_path / "images", tmp_path / "a.csv"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:04}.jpg").symlink_to(os.readlink(many / f"{number:04}.jpg"))
    command = ("predict", f"--run_dir={trained.path}", f"--out={path}", folder)
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
    call(*command)
    assert "resuming after " in call.said.err
    found = rows(path)
    assert [Path(row["path"]).name for row in found] == [f"{n:04}.jpg" for n in range(100)]
    assert found[-1]["problem"] == "can't be read: No such file or directory"


@pytest.mark.slow
def test_sigterm_among_broken_images_ends_the_program(trained, tmp_path):
    """Where TensorFlow raises one error after another, and no group is full before the end."""
    folder, seed = tmp_path / "images", random.randrange(2**32)
    print("seed of the moment:", seed)
    folder.mkdir()
    (tmp_path / "broken").write_bytes(b"no image")
    for number in range(30_000):
        (folder / f"{number:05}.jpg").symlink_to(tmp_path / "broken")
    path = tmp_path / "a.csv"
    process = start("predict", f"--run_dir={trained.path}", f"--out={path}", folder)
    while process.poll() is None and part(path) < 200:
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 3))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert err.splitlines()[-1].startswith("predict: stopped by SIGTERM")
    assert part(path) > 1000, "what was found out is kept"


def test_bad_files_and_odd_names_have_a_row_each(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    laid = bad_images.lay_out(tmp_path / "images")
    odd = [b"\xff\xfe good.jpg", b"two\nlines good.jpg", b"=1+1 good.jpg"]
    for number, name in enumerate(odd):
        place = tmp_path / "images" / os.fsdecode(name)
        place.write_bytes(saved(bad_images.noisy(np.random.default_rng(number)), "JPEG"))
    path = tmp_path / "a.csv"
    inside = [os.path.join("images", os.fsdecode(name)) for name in odd]
    call("predict", f"--run_dir={trained.path}", "--out=a.csv", "--top_k=2", "images", *inside)
    err = call.said.err
    found = {row["path"]: row for row in rows(path)}
    named = {str(file.relative_to(tmp_path)) for file in laid.bad}
    listed = {name for name in named if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png")}
    assert listed <= found.keys()
    assert all(found[name]["problem"] and not found[name]["label_1"] for name in listed)
    for name in inside:
        assert found[name]["problem"] == ""
        assert found[name]["label_2"]
    unread = sum(bool(row["problem"]) for row in rows(path))
    assert f"predict: {unread:,} of {len(rows(path)):,} could not be read; the first 10:" in err
    assert err.count("\n") < 20


def test_closed_streams_leave_the_file_intact(trained, coloured, tmp_path):
    def closed():
        for number in range(3):
            os.close(number)

    command = ("predict", f"--run_dir={trained.path}", "--out=a.jsonl", coloured / "red", "no.jpg")
    (tmp_path / "no.jpg").touch()
    process = start(*command, cwd=tmp_path, preexec_fn=closed)
    assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == 0
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    assert [Path(row["path"]).name for row in found if row["problem"]] == ["no.jpg"]


def test_unreadable_images_alone_are_an_error_with_their_rows(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"^no image could be read$"):
        call("predict", f"--run_dir={trained.path}", "--out=o.csv", "a.jpg")
    assert call.said.err.endswith("  a.jpg: empty file\n")
    assert [row["problem"] for row in rows(tmp_path / "o.csv")] == ["empty file"]


class Images(Handler):
    """Serves one image under any name that the other does not know."""

    def image(self):
        self.answer("image/png", saved(bad_images.COLOUR, "PNG"))


def test_addresses_and_files_share_a_list(call, trained, coloured, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = str(coloured / "red" / "00.jpg")
    with Server() as server:
        server.RequestHandlerClass = Images
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        words = [server.address("good"), file, server.address("page"), server.address("inside")]
        command = ("predict", f"--run_dir={trained.path}", *words)
        call(*command, f"--out={tmp_path / 'a.csv'}", "--allow_private_urls")
        asked = len(server.paths)
        call(*command, f"--out={tmp_path / 'b.csv'}")
        server.over.set()
        server.shutdown()
        thread.join()
        assert len(server.paths) == asked, (
            "a host of this network is not asked where it is not told"
        )
    assert [row["path"] for row in rows(tmp_path / "a.csv")] == words
    problems = [row["problem"] for row in rows(tmp_path / "a.csv")]
    assert problems[:2] == ["", ""]
    assert problems[2].startswith("returns text/html")
    refused = [row["problem"] for row in rows(tmp_path / "b.csv")]
    assert refused[1] == ""
    assert all("--allow_private_urls allows it" in refused[place] for place in (0, 2, 3))


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--out=a.txt"], FlagError, "a.txt: ending '.txt' does not exist"),
        (["--out=answers"], FlagError, "allowed: .csv, .jsonl"),
        (["--out=a.csv", "--format=json"], FlagError, "--format has no use with --out"),
        (["--out=a.csv", "--plot=a.png"], FlagError, "--plot has no use with --out"),
        (["--out=a.csv", "--precision=float16"], FlagError, "allowed: float32, auto"),
        (["--out=gone/a.csv"], UserError, "gone/a.csv: can't be written (No such file or dir"),
        (["--out=taken.csv"], UserError, "taken.csv exists; name another file, or add --overwrit"),
        (["--out=b.csv", "nowhere"], UserError, "nowhere: no such file or folder"),
        (["--out=b.csv", "--run_dir=none"], UserError, "--run_dir=none: holds no run"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    call, trained, coloured, tmp_path, monkeypatch, flags, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.csv").write_text("mine")
    with pytest.raises(error, match=re.escape(message)) as raised:
        call("predict", f"--run_dir={trained.path}", *flags, coloured / "red")
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.csv"]
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_part_of_other_options_is_refused_or_overwritten(
    call, trained, coloured, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = saved_run.save(tmp_path / "other", DecisionRule(2.0))
    mine, its = f"--run_dir={trained.path}", f"--run_dir={other.path}"
    (tmp_path / "images").symlink_to(coloured)
    command = ("predict", "images", "--out=a.csv")
    with monkeypatch.context() as patch:  # as it is a moment before it ends
        patch.setattr(PredictionsFile, "finish", lambda file: None)
        call(*command, mine)
    done = (tmp_path / "a.csv.part").read_bytes()
    for flags, words in {
        (its, *command[1:]): "another model",
        (mine, "--top_k=2", *command[1:]): "--top_k=1",
        (mine, "--tta=flip", *command[1:]): "no --tta",
        (mine, tmp_path / "images", "--out=a.csv"): "relative names from another folder",
    }.items():
        with pytest.raises(
            UserError, match=f"a.csv.part was started with {words}; continue with the"
        ):
            call("predict", *flags)
    assert (tmp_path / "a.csv.part").read_bytes() == done
    call(*command, its, "--overwrite")
    assert (tmp_path / "a.csv").read_bytes() != done
    call(*command, mine, "--overwrite")
    assert (tmp_path / "a.csv").read_bytes() == done


def test_interrupted_overwriting_resumes_below_home(call, trained, coloured, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("old")
    command = ("predict", f"--run_dir={trained.path}", coloured / "red", "--out=~/a.csv")
    with monkeypatch.context() as patch:
        patch.setattr(PredictionsFile, "finish", lambda file: None)
        call(*command, "--overwrite")
    assert (tmp_path / "a.csv").read_text() == "old"
    call(*command)
    assert len(rows(tmp_path / "a.csv")) == 26


def test_full_disk_is_one_line_and_resumes_when_there_is_room(
    call, trained, many, tmp_path, monkeypatch
):
    """A limit on the size of files ends a write as a full disk does, in the middle of a row."""
    monkeypatch.chdir(tmp_path)
    command = ("predict", f"--run_dir={trained.path}", "--precision=float32", many)
    call(*command, "--out=whole.csv")
    expected = (tmp_path / "whole.csv").read_bytes()
    limit, (soft, hard) = len(expected) * 2 // 3, resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with pytest.raises(UserError) as raised:
            call(*command, "--out=a.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert "can't be written (File too large); " in str(raised.value)
    assert "rows are in a.csv.part; free some space" in str(raised.value)
    assert 0 < (tmp_path / "a.csv.part").stat().st_size <= limit
    call(*command, "--out=a.csv")
    assert (tmp_path / "a.csv").read_bytes() == expected
