"""The service as a person starts it: its answers, its page in a browser, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image

from engine.rules import Rule
from engine.rundir import RunDir, claim
from tests.bin.programs import run, start, without_tensorflow
from tests.engine import small
from tests.engine.serving import browser, served_run
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

CLASSES = ("<b>bold</b> & “quoted”", "blue", "red")
SMALL = ("--batch_size=4", "--threads=2")


@pytest.fixture(scope="module")
def made_run(tmp_path_factory) -> Path:
    """With ImageNet's features and a head by chance."""
    place = tmp_path_factory.mktemp("served") / "run"
    recipe = small.recipe(backbone="efficientnet_lite0", image_size=(64, 64), weights="imagenet")
    return served_run.make(place, recipe, CLASSES, Rule(temperature=1.5)).path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """One of every kind of file."""
    folder = tmp_path_factory.mktemp("pictures")
    kinds = zip(KINDS, SIZES * len(KINDS), strict=False)
    return [
        every_format.write(folder, kind, size, number) for number, (kind, size) in enumerate(kinds)
    ]


def by_label(answer: dict) -> dict[str, float]:
    return {row["label"]: row["probability"] for row in answer["predictions"]}


class Served:
    """A service in a process of its own."""

    def __init__(self, *flags, **settings) -> None:
        self.process = start("serve", *SMALL, "--port=0", *flags, **settings)
        first = self.process.stdout.readline()
        self.address, self.lines = first.split(" ")[0], [first]
        while self.lines[-1] and not self.lines[-1].startswith("ready"):
            self.lines.append(self.process.stdout.readline())
        assert self.lines[-1], self.process.communicate()
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def post(self, *files: Path) -> list[dict]:
        async def send():
            form = aiohttp.FormData()
            for file in files:
                form.add_field("any", file.read_bytes(), filename=file.name)
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{self.address}predict?top=9", data=form) as response,
            ):
                assert response.status == 200, await response.text()
                return (await response.json())["files"]

        return asyncio.run(send())

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.address}healthz", timeout=60) as response:
            return json.load(response)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextlib.contextmanager
def served(*flags, **settings):
    it = Served(*flags, **settings)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.communicate()


@pytest.fixture(scope="module")
def service(made_run):
    with served(f"--run_dir={made_run}") as it:
        yield it
        status, out, err = it.end()
        assert (status, out, err) == (0, "", ""), "whatever was sent to it"


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


def test_answers_are_those_of_predict(service, made_run, pictures):
    """For every kind of file; there each is computed alone, here in batches of other sizes."""
    flags = (f"--run_dir={made_run}", "--format=json", "--top=9")
    rows = json.loads(run("predict", *flags, *pictures))
    assert len({json.dumps(row["predictions"]) for row in rows}) == len(pictures)
    answers = service.post(*pictures)
    assert [answer["name"] for answer in answers] == [picture.name for picture in pictures]
    for answer, row in zip(answers, rows, strict=True):
        assert by_label(answer) == pytest.approx(by_label(row), abs=1e-5)
        assert answer["decision"] == row["predictions"][0]["label"]


def test_a_bomb_and_a_broken_file_are_named_among_good_ones(service, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[0].read_bytes()[:200])
    bomb = tmp_path / "bomb.png"
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**6).to_bytes(4, "big") * 2
    bomb.write_bytes(head + b"\x08\x02\0\0\0" + bytes(100))
    good, cut, large = service.post(pictures[0], broken, bomb)
    assert good["decision"] in CLASSES
    assert "truncated or damaged" in cut["problem"]
    assert large["problem"] == "more than 178,956,970 pixels"


def test_nonsense_in_a_form_is_not_told_to_who_runs_the_service(service):
    """The fixture looks at the error stream."""
    head = b"--b\r\nContent-Disposition: form-data; %s\r\n\r\nno picture\r\n--b--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    for odd in (b"filename*=UTF-8''%ff", b'name="a; =;;filename'):
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/predict", head.replace(b"%s", odd), kind)
        response = connection.getresponse()
        assert response.status == 422, response.read()
        response.read()
    connection.close()


def test_sigterm_answers_what_was_asked_and_ends_with_0(made_run, pictures, service, tmp_path):
    """And nothing is written anywhere. In the fastest precision, which says nearly the same."""
    before = sorted(path.name for path in made_run.rglob("*"))
    with served(f"--run_dir={made_run}", "--precision=auto", cwd=tmp_path) as it:
        assert it.health()["precision"] in ("float32", "bfloat16", "float16")
        for one, other in zip(it.post(*pictures), service.post(*pictures), strict=True):
            assert by_label(one) == pytest.approx(by_label(other), abs=0.1)

        async def send():
            async with aiohttp.ClientSession() as session:

                async def one(contents):
                    async with session.post(
                        f"{it.address}predict", data=contents, headers={"Content-Type": "image/x"}
                    ) as response:
                        return response.status, await response.json()

                asked = [asyncio.ensure_future(one(p.read_bytes())) for p in pictures * 4]
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
        (["--run_dir={run}", "picture.jpg"], 2, "'picture.jpg' has no use here; it goes with"),
        (["--run_dir={run}", "--connections=3"], 2, "--connections has no use here"),
        (["--run_dir={run}", "--measure"], 2, "no picture is named"),
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
    claim(RunDir(tmp_path / "empty"), RunDir(made_run).read_recipe(), overwrite=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"run": made_run, "empty": tmp_path / "empty", "taken": taken.getsockname()[1]}
        known["links"] = tmp_path / "links"
        said = run("serve", *(flag.format(**known) for flag in flags), status=status)
    assert message in said
    assert said.startswith("serve: ")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_measuring_prints_both_rates_and_ends_the_service(made_run, pictures):
    out = run(
        "serve", *SMALL, f"--run_dir={made_run}", "--measure", "--requests=30", "--connections=4",
        pictures[0].parent,
    )  # fmt: skip
    ready, alone, together, ratio = out.splitlines()
    assert ready.startswith("ready: efficientnet_lite0")
    assert alone.startswith("one at a time")
    assert together.startswith("on 4 connections")
    rates = [float(line.split(" pictures/s")[0].split()[-1]) for line in (alone, together)]
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


@pytest.fixture
def noise(tmp_path) -> list[Path]:
    random = np.random.default_rng(0)
    files = []
    for number in range(2):
        files.append(tmp_path / f"noise <{number}> & so on.png")
        Image.fromarray(random.integers(0, 256, (90, 120, 3), np.uint8)).save(files[-1])
    return files


DROP = """
(async () => {
  const picture = new OffscreenCanvas(40, 30);
  picture.getContext("2d").fillRect(0, 0, 20, 30);
  const blob = await picture.convertToBlob({ type: "image/png" });
  const data = new DataTransfer();
  data.items.add(new File([blob], "%s.png", { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new %s);
})()
"""
TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9, "nativeVirtualKeyCode": 9}
DONE = (
    "document.querySelectorAll('article').length == %d"
    " && !document.querySelector('article.waiting')"
)
FOREIGN = """
performance.getEntriesByType("resource").map((entry) => entry.name)
  .filter((name) => !name.startsWith(location.origin) && !/^(data|blob):/.test(name))
"""
CARD = """
[...document.querySelectorAll("article")].map((card) => ({
  title: card.querySelector("h2").textContent,
  name: card.querySelector(".name").textContent,
  alt: card.querySelector("img").alt,
  shown: card.querySelector("img").naturalWidth,
  rows: [...card.querySelectorAll("li")].map((row) => [
    row.querySelector(".label").textContent,
    row.querySelector(".share").textContent,
    row.querySelector("i").getBoundingClientRect().width
      / row.querySelector(".track").getBoundingClientRect().width,
  ]),
}))
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not browser.PROGRAM:
        pytest.skip("needs chromium, a browser that can be driven")

    def within(service, test, **settings):
        async def main():
            async with browser.browser(tmp_path_factory.mktemp("profile")) as tab:
                await tab.open(service.address, **settings)
                await tab.until("document.getElementById('model').textContent.includes('run')")
                await test(tab)
                assert not tab.complaints

        asyncio.run(asyncio.wait_for(main(), 120))

    return within


def test_the_page_answers_what_is_chosen(service, noise, chromium):
    answers = service.post(*noise)

    async def test(tab):
        await tab.choose("#pick", *noise)
        await tab.until(DONE % 2)
        await asyncio.sleep(0.6)  # the bars have grown
        cards = await tab.run(CARD)
        assert [card["name"] for card in cards] == [file.name for file in reversed(noise)]
        for card, answer in zip(cards, reversed(answers), strict=True):
            assert card["title"] == answer["decision"]
            assert card["alt"] == f"The picture {card['name']}"
            assert card["shown"] == 120
            assert {row[0] for row in card["rows"]} == set(CLASSES), "names are text, not markup"
            for row, wanted in zip(card["rows"], answer["predictions"], strict=True):
                assert row[0] == wanted["label"]
                assert row[2] == pytest.approx(wanted["probability"], abs=0.02)
                assert float(row[1].strip("%")) == pytest.approx(
                    100 * wanted["probability"], abs=0.06
                )
        assert await tab.run("document.querySelectorAll('article b').length") == 0

    chromium(service, test)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("dropped", 'DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })'),
        ("pasted", 'ClipboardEvent("paste", { clipboardData: data, bubbles: true })'),
    ],
)
def test_the_page_answers_what_is_dropped_and_pasted(service, chromium, name, event):
    async def test(tab):
        await tab.run(DROP % (name, event))
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARD)
        assert card["name"] == f"{name}.png"
        assert card["title"] in CLASSES
        assert (await tab.run("document.getElementById('status').textContent")).startswith(name)

    chromium(service, test)


def test_the_page_fits_a_phone_and_the_dark_and_needs_no_mouse(service, noise, chromium):
    async def test(tab):
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        await tab.call("Emulation.setEmulatedMedia", features=[scheme])
        await tab.choose("#pick", noise[0])
        await tab.until(DONE % 1)
        assert await tab.run("document.documentElement.scrollWidth") == 375
        ground = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert max(int(level) for level in ground[4:-1].split(",")) < 60
        for kind in ("keyDown", "keyUp"):
            await tab.call("Input.dispatchKeyEvent", type=kind, **TAB)
        assert await tab.run("document.activeElement.id") == "pick"
        named = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        roles = {(node["role"]["value"], node.get("name", {}).get("value")) for node in named}
        assert ("button", "Choose a picture") in roles
        assert ("heading", "What does it show?") in roles
        assert any(role == "status" for role, _ in roles)
        assert await tab.run(FOREIGN) == []

    chromium(service, test, width=375, height=700)


def test_the_page_says_what_went_wrong(service, tmp_path, chromium):
    broken = tmp_path / "notes.png"
    broken.write_text("no picture")

    async def test(tab):
        await tab.choose("#pick", broken)
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARD)
        assert card["title"].startswith("Not a picture (JPEG, PNG")
        assert card["rows"] == []
        tab.complaints = [c for c in tab.complaints if "422" not in c["entry"]["text"]]

    chromium(service, test)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks at open files")
def test_no_connection_stays_open(service, pictures):
    fds = f"/proc/{service.process.pid}/fd"
    before = len(os.listdir(fds))
    for _ in range(20):
        service.post(pictures[0])
    time.sleep(0.2)
    assert len(os.listdir(fds)) <= before + 2
