"""Small files that want minutes or gigabytes, given to each program: it names them and goes on."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

from tests.bin.programs import start
from tests.engine.commands.serving import served
from tests.pipelines import bombs
from tests.pipelines.encoded_images import COLOUR, saved

pytestmark = pytest.mark.slow

MEMORY = 4 * 10**9  # bytes of a program: TensorFlow takes 0.5, a large image 2, three others 0.5
SECONDS = 400  # a guard: all together want hours, and take less than a minute of one core
REFUSED = {
    *("blocks.gif", "canvas_too_large.webp", "film.jpg"),
    *("international_texts.png", "row.bmp", "row_of_million.png", "scans_20.jpg"),
    *("scans_million.jpg", "scans_of_one_component.jpg", "scans_refining.jpg"),
    *("square_of_50000.png", "texts_990.png"),
}
TINY = ("--backbone=tiny", "--weights=none", "--image_size=32", "--precision=float32")


@pytest.fixture(scope="module")
def data(coloured, tmp_path_factory) -> Path:
    """Class folders: two of good images, and the bombs as a third."""
    folder = tmp_path_factory.mktemp("bombs")
    for name in ("blue", "red"):
        (folder / name).symlink_to(coloured / name)
    (folder / "bombs").mkdir()
    for name, contents in bombs.all_bombs().items():
        (folder / "bombs" / name).write_bytes(contents)
    (folder / "bombs" / "film.jpg").touch()
    os.truncate(folder / "bombs" / "film.jpg", 10**12)
    return folder


def run_bounded(program: str, *arguments) -> tuple[int, str, str]:
    """Runs a program to its end; fails where that takes too long or too much memory."""
    process, deadline, most = start(program, *arguments), time.monotonic() + SECONDS, 0
    try:
        while True:
            try:
                out, err = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                most = max(most, most_memory(process.pid))
                assert time.monotonic() < deadline, "hangs"
    finally:
        process.kill()
    print(f"{program}: at most {most / 1e9:.2f} GB")
    assert most < MEMORY
    return process.returncode, out, err


def most_memory(pid: int) -> int:
    """The most bytes of a process so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int((text.partition("VmHWM:")[2].split() or [0])[0]) * 1024


def test_training_lists_bombs_and_ends(data, tmp_path):
    run = tmp_path / "run"
    flags = ("--validation_fraction=0.25", "--noreport", "--phase=head(epochs=1)", "--threads=2")
    flags += (f"--cache_dir={tmp_path / 'cache'}", f"--run_dir={run}", f"--data_dir={data}")
    status, _, err = run_bounded("train", *TINY, *flags)
    assert (status, err) == (0, "")
    with open(run / "bad_images.csv", newline="") as file:
        listed = {Path(row["path"]).name for row in csv.DictReader(file)}
    assert listed == REFUSED


def test_doctor_names_bombs(data, tmp_path):
    flags = (f"--data_dir={data}", f"--out={tmp_path}", "--cache_dir=none", "--threads=2")
    status, _, err = run_bounded("doctor", *flags)
    assert (status, err) == (1, "")
    findings = json.loads((tmp_path / "report.json").read_text())["findings"]
    unusable = [f for f in findings if f["kind"] in ("unreadable", "bomb", "damaged")]
    places = [
        place for finding in unusable for case in finding["cases"] for place in case["places"]
    ]
    assert {Path(place).name for place in places} == REFUSED


def test_predict_has_a_row_for_every_bomb(data, made_run):
    flags = (f"--run_dir={made_run}", "--format=json", "--threads=2")
    status, out, err = run_bounded("predict", *flags, data / "bombs", data / "red")
    assert status == 1
    rows = json.loads(out)
    names = {Path(row["path"]).name: row["problem"] for row in rows}
    assert {name for name, problem in names.items() if problem} == REFUSED
    assert len(rows) == len(os.listdir(data / "bombs")) + len(os.listdir(data / "red"))
    assert all(name in err for name in REFUSED)


def test_service_answers_bombs_and_others_and_stops_while_it_decodes(data, made_run):
    """All at once, and a good image after them; health is asked all the time."""
    good = saved(COLOUR, "PNG")
    files = [path for path in sorted((data / "bombs").iterdir()) if path.name != "film.jpg"]
    with served(f"--run_dir={made_run}", "--timeout_seconds=120") as it:

        async def post(session, contents: bytes) -> tuple[int, dict]:
            async with session.post(f"{it.address}predict", data=contents) as response:
                return response.status, await response.json()

        async def attack() -> tuple[list, list]:
            kind = {"Content-Type": "image/x"}
            timeout = aiohttp.ClientTimeout(SECONDS)
            async with aiohttp.ClientSession(headers=kind, timeout=timeout) as session:
                tasks = [asyncio.ensure_future(post(session, f.read_bytes())) for f in files]
                states = []
                while not all(task.done() for task in tasks):
                    async with session.get(f"{it.address}healthz") as response:
                        states.append((response.status, (await response.json())["status"]))
                    await asyncio.sleep(0.1)
                assert (await post(session, good))[0] == 200
                return states, [task.result() for task in tasks]

        states, answers = asyncio.run(attack())
        most = most_memory(it.process.pid)
        print(f"serve: at most {most / 1e9:.2f} GB")
        assert most < MEMORY
        assert {(200, "ready"), (503, "busy")} == set(states)
        refused = {
            file.name for file, (status, _) in zip(files, answers, strict=True) if status == 422
        }
        assert refused == REFUSED - {"film.jpg"}
        assert {status for status, _ in answers} == {200, 422}
        with socket.create_connection(("127.0.0.1", it.port)) as client:
            slow = (data / "bombs" / "too_many_pixels.png").read_bytes()
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/x\r\n"
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(slow) + slow)
            time.sleep(0.3)
            assert it.end() == (0, "", "")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
