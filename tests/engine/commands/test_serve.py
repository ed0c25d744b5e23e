"""bin/serve and its command: what it answers, how it ends, and what it refuses."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from engine.cli import command_line
from engine.cli import serve as cli_serve
from engine.commands import load_test
from engine.commands.serve import ServeOptions, serve
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from tests.engine import tiny
from tests.engine.commands.serving import CLASSES, SMALL, served, start_service
from tests.engine.small_runs import Watcher
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """One of every kind of file."""
    folder = tmp_path_factory.mktemp("images")
    kinds = enumerate(zip(KINDS, SIZES * len(KINDS), strict=False))
    return [every_format.write(folder, kind, size, number) for number, (kind, size) in kinds]


def by_label(answer: dict) -> dict[str, float]:
    return {row["label"]: row["probability"] for row in answer["predictions"]}


def test_start_prints_address_and_model(service, made_run):
    assert service.address.startswith("http://127.0.0.1:")
    lines = [f"{service.address} loading {made_run}\n", "ready: tiny at 32x32, float32\n"]
    assert service.lines == lines
    assert service.health() == {
        "status": "ready",
        "run": "run",
        "model": "tiny",
        "precision": "float32",
        "image_size": [32, 32],
        "classes": list(CLASSES),
    }


def test_predictions_equal_those_of_predict(service, made_run, images, call):
    """For every kind of file; there each is computed alone, here in batches of other sizes."""
    flags = (f"--run_dir={made_run}", "--format=json", "--top_k=9")
    rows = json.loads(call("predict", *flags, *images))
    assert len({json.dumps(row["predictions"]) for row in rows}) > 0.7 * len(images)
    for image, answer, row in zip(images, service.post(*images), rows, strict=True):
        assert answer["name"] == image.name
        assert by_label(answer) == pytest.approx(by_label(row), abs=1e-5)
        assert answer["decision"] == row["predictions"][0]["label"]


def test_bomb_and_broken_file_are_named_among_good_ones(service, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images[0].read_bytes()[:200])
    bomb = tmp_path / "bomb.png"
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2
    bomb.write_bytes(head + b"\x08\x02\0\0\0" + bytes(100))
    good, cut, large = service.post(images[0], broken, bomb)
    assert good["decision"] in CLASSES
    assert "truncated or damaged" in cut["problem"]
    assert large["problem"] == "more than 178,956,970 pixels, or 65,535 on a side"


def test_nonsense_in_a_form_is_not_logged(service):
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


def test_sigterm_answers_pending_requests_and_ends_with_0(made_run, images, service, tmp_path):
    """Nothing is written anywhere. In the fastest precision, which is within tolerance."""
    before = sorted(path.name for path in made_run.rglob("*"))
    with served(f"--run_dir={made_run}", "--precision=auto", cwd=tmp_path) as it:
        assert it.health()["precision"] in ("float32", "bfloat16", "float16")
        for one, other in zip(it.post(*images), service.post(*images), strict=True):
            assert by_label(one) == pytest.approx(by_label(other), abs=0.1)

        async def send_and_stop():
            async with aiohttp.ClientSession(headers={"Content-Type": "image/x"}) as session:

                async def send(contents):
                    async with session.post(f"{it.address}predict", data=contents) as response:
                        return response.status, await response.json()

                tasks = [asyncio.ensure_future(send(p.read_bytes())) for p in images * 4]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                it.process.send_signal(signal.SIGTERM)
                return await asyncio.gather(*tasks, return_exceptions=True)

        answers = asyncio.run(send_and_stop())
        out, err = it.process.communicate(timeout=60)
        assert (it.process.returncode, out, err) == (0, "", "")
    late = [isinstance(answer, aiohttp.ClientConnectorError) for answer in answers]
    answered = [answer for answer, missed in zip(answers, late, strict=True) if not missed]
    assert any(status == 200 for status, _ in answered)
    for status, values in answered:  # none is cut off
        assert status == 200 or values["error"] == "the service is stopping", values
    assert list(tmp_path.iterdir()) == []
    assert before == sorted(path.name for path in made_run.rglob("*"))


def test_second_sigterm_ends_at_once(made_run):
    with served(f"--run_dir={made_run}") as it:
        with socket.create_connection(("127.0.0.1", it.port)) as slow:
            slow.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                b"Content-Length: 9999\r\nExpect: 100-continue\r\n\r\n"
            )
            assert b"100 Continue" in slow.recv(100), "the request is being read"
            it.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                it.process.wait(1.3)
            it.process.send_signal(signal.SIGTERM)
            assert it.process.wait(20) == 128 + signal.SIGTERM
        assert it.process.communicate() == ("", "")


def test_ctrl_c_while_loading_ends_quietly(made_run):
    process = start_service(f"--run_dir={made_run}", "--precision=auto")
    assert " loading " in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "ready" not in out


@pytest.mark.parametrize("disguised", [False, True])
def test_signal_while_tensorflow_starts_ends_quietly(made_run, monkeypatch, disguised):
    """TensorFlow's C++ may turn what a handler raises into an error of its own."""
    shutdown, watcher = Shutdown(), Watcher()

    def start_tensorflow(*_, **__):
        try:
            shutdown._raise(signal.SIGTERM, None)
        except ShutdownRequested as request:
            if disguised:
                raise RuntimeError("in C++") from request
            raise

    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", start_tensorflow)
    serve(ServeOptions(made_run, port=0), watcher, shutdown)
    assert (shutdown.reason, watcher.notes) == ("SIGTERM", [])


def test_flags_reach_the_options(made_run):
    flags = ("--host=a", "--allow_host=B.example,c", "--max_queue_size=99")
    argv = ["bin/serve", f"--run_dir={made_run}", *flags]
    parsed = command_line.parse("...", [cli_serve.define_serve], argv)
    assert cli_serve.serve_options(parsed) == ServeOptions(
        made_run, host="a", allow_host=("B.example", "c"), max_queue_size=99
    )


def test_missing_model_and_unavailable_address_are_refused(made_run, tmp_path):
    recipe = RunDirectory(made_run).read_recipe()
    claim_directory(RunDirectory(tmp_path / "empty"), recipe, overwrite=False)
    with pytest.raises(UserError, match="holds no model yet"):
        serve(ServeOptions(tmp_path / "empty", port=0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match="Address already in use; name another"):
            serve(ServeOptions(made_run, port=port))
    with pytest.raises(UserError, match="allowed: an address or name of this machine"):
        serve(ServeOptions(made_run, host="no.such.host.invalid"))


@pytest.mark.slow
def test_load_test_prints_both_rates_and_ends_the_service(made_run, images, call, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", tiny.environment()["PYTHONPATH"])
    flags = (*SMALL, f"--run_dir={made_run}", "--load_test", "--requests=30", "--connections=4")
    ready, alone, together, ratio = call("serve", *flags, images[0].parent).splitlines()
    assert ready.startswith("ready: tiny")
    assert alone.startswith("one at a time")
    assert together.startswith("on 4 connections")
    rates = [float(line.split(" images/s")[0].split()[-1]) for line in (alone, together)]
    assert float(ratio.split()[1].rstrip(";")) == pytest.approx(rates[1] / rates[0], abs=0.02)
    assert float(ratio.split()[-1]) < 1e-5
    assert all("99 % within" in line for line in (alone, together))


SERVICE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("http://127.0.0.1:1/ loading run\\nready: tiny", flush=True)
time.sleep(60)
"""


def test_service_that_ends_with_an_error_is_a_warning(monkeypatch):
    command = [sys.executable, "-c", SERVICE]
    monkeypatch.setattr(load_test.child_process, "module_command", lambda *_: command)
    logger, warnings = Watcher(), []
    with load_test._service(ServeOptions(Path("run")), logger, warnings.append) as address:
        assert address == "http://127.0.0.1:1/"
    assert logger.notes == ["ready: tiny"]
    assert warnings == ["the service ended with status 3"]


def test_connection_stays_open_after_a_head_request(service):
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
    deadline = time.monotonic() + 10
    while len(os.listdir(fds)) > before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
