"""The service as a person starts it: its answers, and how it ends."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

from engine.runs.directory import RunDirectory, claim_directory
from tests.bin.programs import run, start, without_tensorflow
from tests.engine.commands.serving import CLASSES, SMALL, served
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """One of every kind of file."""
    folder = tmp_path_factory.mktemp("images")
    kinds = zip(KINDS, SIZES * len(KINDS), strict=False)
    return [
        every_format.write(folder, kind, size, number) for number, (kind, size) in enumerate(kinds)
    ]


def by_label(answer: dict) -> dict[str, float]:
    return {row["label"]: row["probability"] for row in answer["predictions"]}


def test_help_needs_no_tensorflow():
    done = without_tensorflow("serve", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--allow_host=…" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_it_says_where_it_is_and_what_it_is(service, made_run):
    assert service.lines[0] == f"{service.address} loading {made_run}\n"
    assert service.address.startswith("http://127.0.0.1:")
    assert service.lines[-1] == "ready: efficientnet_lite0 at 64x64, float32\n"
    assert service.health() == {
        "status": "ready",
        "run": "run",
        "model": "efficientnet_lite0",
        "precision": "float32",
        "image_size": [64, 64],
        "classes": list(CLASSES),
    }


def test_answers_are_those_of_predict(service, made_run, images):
    """For every kind of file; there each is computed alone, here in batches of other sizes."""
    flags = (f"--run_dir={made_run}", "--format=json", "--top=9")
    rows = json.loads(run("predict", *flags, *images))
    assert len({json.dumps(row["predictions"]) for row in rows}) == len(images)
    answers = service.post(*images)
    assert [answer["name"] for answer in answers] == [image.name for image in images]
    for answer, row in zip(answers, rows, strict=True):
        assert by_label(answer) == pytest.approx(by_label(row), abs=1e-5)
        assert answer["decision"] == row["predictions"][0]["label"]


def test_a_bomb_and_a_broken_file_are_named_among_good_ones(service, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images[0].read_bytes()[:200])
    bomb = tmp_path / "bomb.png"
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2
    bomb.write_bytes(head + b"\x08\x02\0\0\0" + bytes(100))
    good, cut, large = service.post(images[0], broken, bomb)
    assert good["decision"] in CLASSES
    assert "truncated or damaged" in cut["problem"]
    assert large["problem"] == "more than 178,956,970 pixels"


def test_nonsense_in_a_form_is_not_told_to_who_runs_the_service(service):
    """The fixture looks at the error stream."""
    head = b"--b\r\nContent-Disposition: form-data; %s\r\n\r\nno image\r\n--b--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for odd in (b"filename*=UTF-8''%ff", b'name="a; =;;filename'):
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/predict", head.replace(b"%s", odd), kind)
        response = connection.getresponse()
        assert response.status == 422, response.read()
        response.read()
    connection.close()


def test_sigterm_answers_what_was_asked_and_ends_with_0(made_run, images, service, tmp_path):
    """And nothing is written anywhere. In the fastest precision, which says nearly the same."""
    before = sorted(path.name for path in made_run.rglob("*"))
    with served(f"--run_dir={made_run}", "--precision=auto", cwd=tmp_path) as it:
        assert it.health()["precision"] in ("float32", "bfloat16", "float16")
        for one, other in zip(it.post(*images), service.post(*images), strict=True):
            assert by_label(one) == pytest.approx(by_label(other), abs=0.1)

        async def send():
            async with aiohttp.ClientSession() as session:

                async def one(contents):
                    async with session.post(
                        f"{it.address}predict", data=contents, headers={"Content-Type": "image/x"}
                    ) as response:
                        return response.status, await response.json()

                asked = [asyncio.ensure_future(one(p.read_bytes())) for p in images * 4]
                while not any(task.done() for task in asked):
                    await asyncio.sleep(0.001)
                it.process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*asked, return_exceptions=True)

        answers = asyncio.run(send())
        out, err = it.process.communicate(timeout=60)
        assert (it.process.returncode, out, err) == (0, "", "")
    good = [answer for answer in answers if not isinstance(answer, Exception) and answer[0] == 200]
    assert good
    for answer in answers:  # answered, told to come again, or too late to come in: never cut off
        late = isinstance(answer, aiohttp.ClientConnectorError)
        assert late or answer[0] == 200 or answer[1]["error"] == "the service is stopping", answer
    assert list(tmp_path.iterdir()) == []
    assert before == sorted(path.name for path in made_run.rglob("*"))


def test_a_second_sigterm_ends_at_once(made_run):
    with served(f"--run_dir={made_run}") as it:
        with socket.create_connection(("127.0.0.1", it.port)) as slow:
            slow.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                b"Content-Length: 9999\r\n\r\nbegins"
            )
            time.sleep(0.3)
            it.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                it.process.wait(1.3)
            it.process.send_signal(signal.SIGTERM)
            assert it.process.wait(20) == 128 + signal.SIGTERM
        assert it.process.communicate() == ("", "")


def test_ctrl_c_while_it_loads_ends_it_quietly(made_run):
    process = start("serve", *SMALL, "--port=0", f"--run_dir={made_run}", "--precision=auto")
    assert " loading " in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "ready" not in out


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "--run_dir is missing"),
        (["--run_dir=gone"], 1, "holds no run"),
        (["--run_dir={empty}", "--port=0"], 1, "holds no model yet"),
        (["--run_dir={run}", "image.jpg"], 2, "'image.jpg' has no use here; it goes with"),
        (["--run_dir={run}", "--connections=3"], 2, "--connections has no use here"),
        (["--run_dir={run}", "--measure"], 2, "no image is named"),
        (["--run_dir={run}", "--measure", "http://a/b.jpg"], 1, "http://a/b.jpg can't be read"),
        (["--run_dir={run}", "--measure", "{links}"], 1, "; --measure takes files and folders"),
        (["--run_dir={run}", "--port=70000"], 2, "--port=70000; allowed: 0 to 65535"),
        (["--run_dir={run}", "--port={taken}"], 1, "Address already in use; name another"),
        (["--run_dir={run}", "--host=203.0.113.1"], 1, "--host=203.0.113.1 --port=8501: "),
        (["--run_dir={run}", "--host=no.such.host.invalid"], 1, "allowed: an address or name"),
        (["--run_dir={run}", "--host="], 1, "allowed: an address or name of this machine"),
        (["--run_dir={run}", "--allow_host=a.example:80"], 2, "allowed: names such as a.example"),
        (["--run_dir={run}", "--allow_host=http://a"], 2, "--allow_host=http://a; allowed: names"),
        (["--run_dir={run}", "--queue=3"], 2, "less than --max_files=32"),
        (["--run_dir={run}", "--max_mb=0"], 2, "--max_mb=0; allowed: a number above 0"),
        (["--run_dir={run}", "--timeout_seconds=0"], 2, "allowed: a number above 0"),
        (["--run_dir={run}", "--precision=bf16"], 2, "allowed: float32, auto"),
    ],
)
def test_mistakes_are_a_line(made_run, tmp_path, flags, status, message):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "nowhere.jpg").symlink_to("gone")
    claim_directory(
        RunDirectory(tmp_path / "empty"), RunDirectory(made_run).read_recipe(), overwrite=False
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"run": made_run, "empty": tmp_path / "empty", "taken": taken.getsockname()[1]}
        known["links"] = tmp_path / "links"
        said = run("serve", *(flag.format(**known) for flag in flags), status=status)
    assert message in said
    assert said.startswith("serve: ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_measuring_prints_both_rates_and_ends_the_service(made_run, images):
    out = run(
        "serve", *SMALL, f"--run_dir={made_run}", "--measure", "--requests=30", "--connections=4",
        images[0].parent,
    )  # fmt: skip
    ready, alone, together, ratio = out.splitlines()
    assert ready.startswith("ready: efficientnet_lite0")
    assert alone.startswith("one at a time")
    assert together.startswith("on 4 connections")
    rates = [float(line.split(" images/s")[0].split()[-1]) for line in (alone, together)]
    assert float(ratio.split()[1].rstrip(";")) == pytest.approx(rates[1] / rates[0], abs=0.02)
    assert float(ratio.split()[-2]) < 1e-5
    assert all("99 % within" in line for line in (alone, together))


def test_head_and_keep_alive(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for _ in range(3):
        connection.request("HEAD", "/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        assert response.headers["Server"] == "unfreeze"
    connection.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks at open files")
def test_no_connection_stays_open(service, images):
    fds = f"/proc/{service.process.pid}/fd"
    before = len(os.listdir(fds))
    for _ in range(20):
        service.post(images[0])
    time.sleep(0.2)
    assert len(os.listdir(fds)) <= before + 2
