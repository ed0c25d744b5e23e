"""The page of a service, in a browser."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.commands.serving import CLASSES
from tests.engine.serving import browser


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
  const image = new OffscreenCanvas(40, 30);
  image.getContext("2d").fillRect(0, 0, 20, 30);
  const blob = await image.convertToBlob({ type: "image/png" });
  const data = new DataTransfer();
  data.items.add(new File([blob], "%s.png", { type: "image/png" }));
  document.getElementById("drop").dispatchEvent(new %s);
})()
"""
NO_FILE = """
(() => {
  const data = new DataTransfer();
  data.setData("text/plain", "words");
  const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
})()
"""
NOTICE = "document.getElementById('notice').textContent"
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
        assert [card["name"] for card in cards] == [file.name for file in noise]
        for card, answer in zip(cards, answers, strict=True):
            assert card["title"] == answer["decision"]
            assert card["alt"] == f"The image {card['name']}"
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
        assert (await tab.run("document.getElementById('announcement').textContent")).startswith(
            name
        )

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
        assert ("button", "Choose images") in roles
        assert ("heading", "What does it show?") in roles
        assert any(role == "status" for role, _ in roles)
        assert await tab.run(FOREIGN) == []

    chromium(service, test, width=375, height=700)


def test_the_page_says_what_went_wrong(service, tmp_path, chromium):
    broken = tmp_path / "notes.png"
    broken.write_text("no image")

    async def test(tab):
        await tab.choose("#pick", broken)
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARD)
        assert card["title"].startswith("Not an image (JPEG, PNG")
        assert card["rows"] == []
        tab.complaints = [c for c in tab.complaints if "422" not in c["entry"]["text"]]

    chromium(service, test)


INSTEAD = """
const real = window.fetch, instead = %s;
window.fetch = async (...asked) => {
  const [status, values] = instead.shift() || [];
  return status ? new Response(JSON.stringify(values), { status }) : real(...asked);
};
"""


def test_the_page_asks_a_busy_service_again(service, noise, chromium):
    async def test(tab):
        await tab.run(INSTEAD % '[[503, { error: "the queue is full" }]]')
        await tab.choose("#pick", noise[0])
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARD)
        assert card["title"] in CLASSES

    chromium(service, test)


def test_the_page_says_where_not_the_likeliest_is_the_answer(service, noise, chromium):
    rows = [{"label": "a", "probability": 0.8}, {"label": "b", "probability": 0.2}]
    said = [
        [200, {"files": [{"decision": decision, "uncertain": not decision, "predictions": rows}]}]
        for decision in ("a", "b", None)
    ]

    async def test(tab):
        await tab.run(INSTEAD % json.dumps(said))
        notes = []
        for number in range(3):
            await tab.choose("#pick", noise[0])
            await tab.until(DONE % (number + 1))
            notes.append(await tab.run("document.querySelector('.note').textContent"))
        assert notes[0] == ""
        assert notes[1].startswith("Not the most likely")
        assert notes[2] == "No label is likely enough."
        titles = [card["title"] for card in await tab.run(CARD)]
        assert titles == ["Uncertain", "b", "a"]

    chromium(service, test)


def test_the_page_takes_fifty_at_a_time_and_says_so(service, tmp_path, chromium):
    files = [tmp_path / f"{number:02}.png" for number in range(53)]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)

    async def test(tab):
        await tab.choose("#pick", *files)
        assert (await tab.run(NOTICE)).startswith("Only the first 50 images are shown; 3 more ")
        await tab.until(DONE % 50)
        assert [card["name"] for card in await tab.run(CARD)] == [f.name for f in files[:50]]
        await tab.choose("#pick", files[52])
        await tab.until("document.querySelector('.name').textContent == '52.png' && " + DONE % 50)
        assert await tab.run(NOTICE) == ""

    chromium(service, test)


def test_the_page_says_what_it_can_not_take(service, tmp_path, chromium):
    async def test(tab):
        await tab.run(NO_FILE)
        assert (await tab.run(NOTICE)).startswith("That is not a file")
        data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await tab.call("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARD)
        assert card["title"] == "The file can't be read; folders are not supported."
        tab.complaints = [c for c in tab.complaints if "FILE_NOT_FOUND" not in c["entry"]["text"]]

    chromium(service, test)
