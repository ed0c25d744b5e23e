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

pytestmark = pytest.mark.skipif(not browser.PROGRAM, reason="needs chromium")


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Two images of 120x90 pixels, whose names look like markup."""
    random = np.random.default_rng(0)
    files = [tmp_path / f"noise <{number}> & so on.png" for number in range(2)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (90, 120, 3), np.uint8)).save(file)
    return files


RESPONSES = """
const real = window.fetch, responses = %s;
window.fetch = async (...request) => {
  const [status, values] = responses.shift() || [];
  return status ? new Response(JSON.stringify(values), { status }) : real(...request);
};
"""
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
DROP_TEXT = """
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
FOREIGN_RESOURCES = """
performance.getEntriesByType("resource").map((entry) => entry.name)
  .filter((name) => !name.startsWith(location.origin) && !/^(data|blob):/.test(name))
"""
CARDS = """
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
def chromium(service, tmp_path_factory):
    """Runs a test in a tab of its own, which shows the page of the service."""

    def run(test, **settings):
        async def main():
            async with browser.browser(tmp_path_factory.mktemp("profile")) as tab:
                await tab.open(service.address, **settings)
                await tab.until("document.getElementById('model').textContent.includes('run')")
                await test(tab)
                assert not tab.complaints

        asyncio.run(asyncio.wait_for(main(), 120))

    return run


async def choose(tab, *files: Path, cards: int = 1) -> list[dict]:
    """Chooses files; returns what the cards show when none of them waits."""
    await tab.choose("#pick", *files)
    await tab.until(DONE % cards)
    return await tab.run(CARDS)


def test_page_shows_predictions_of_chosen_images(service, images, chromium):
    answers = service.post(*images)

    async def test(tab):
        await choose(tab, *images, cards=2)
        await tab.until("document.getAnimations().length == 0")  # the bars have grown
        cards = await tab.run(CARDS)
        assert [card["name"] for card in cards] == [file.name for file in images]
        for card, answer in zip(cards, answers, strict=True):
            assert card["title"] == answer["decision"]
            assert card["alt"] == f"The image {card['name']}"
            assert card["shown"] == 120
            assert {row[0] for row in card["rows"]} == set(CLASSES), "names are text, not markup"
            for (label, share, bar), expected in zip(
                card["rows"], answer["predictions"], strict=True
            ):
                assert label == expected["label"]
                assert bar == pytest.approx(expected["probability"], abs=0.02)
                percent = float(share.strip("%"))
                assert percent == pytest.approx(100 * expected["probability"], abs=0.06)
        assert await tab.run("document.querySelectorAll('article b').length") == 0

    chromium(test)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("dropped", 'DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })'),
        ("pasted", 'ClipboardEvent("paste", { clipboardData: data, bubbles: true })'),
    ],
)
def test_page_takes_dropped_and_pasted_images(chromium, name, event):
    async def test(tab):
        await tab.run(DROP % (name, event))
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARDS)
        assert card["name"] == f"{name}.png"
        assert card["title"] in CLASSES
        announced = await tab.run("document.getElementById('announcement').textContent")
        assert announced.startswith(name)

    chromium(test)


def test_page_fits_a_phone_in_dark_mode_without_a_mouse(images, chromium):
    async def test(tab):
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        await tab.call("Emulation.setEmulatedMedia", features=[scheme])
        await choose(tab, images[0])
        assert await tab.run("document.documentElement.scrollWidth") == 375
        ground = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert max(int(level) for level in ground[4:-1].split(",")) < 60
        for kind in ("keyDown", "keyUp"):
            await tab.call("Input.dispatchKeyEvent", type=kind, **TAB)
        assert await tab.run("document.activeElement.id") == "pick"
        nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        roles = {(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes}
        assert {("button", "Choose images"), ("heading", "What does it show?")} <= roles
        assert any(role == "status" for role, _ in roles)
        assert await tab.run(FOREIGN_RESOURCES) == []

    chromium(test, width=375, height=700)


def test_page_shows_why_an_image_is_refused(tmp_path, chromium):
    broken = tmp_path / "notes.png"
    broken.write_text("no image")

    async def test(tab):
        (card,) = await choose(tab, broken)
        assert card["title"].startswith("Not an image (JPEG, PNG")
        assert card["rows"] == []
        tab.complaints = [c for c in tab.complaints if "422" not in c["entry"]["text"]]

    chromium(test)


def test_page_retries_while_the_service_is_busy(images, chromium):
    async def test(tab):
        await tab.run(RESPONSES % '[[503, { error: "the queue is full" }]]')
        (card,) = await choose(tab, images[0])
        assert card["title"] in CLASSES

    chromium(test)


def test_page_notes_a_decision_that_is_not_the_most_likely(images, chromium):
    rows = [{"label": "a", "probability": 0.8}, {"label": "b", "probability": 0.2}]
    responses = [
        [200, {"files": [{"decision": decision, "uncertain": not decision, "predictions": rows}]}]
        for decision in ("a", "b", None)
    ]

    async def test(tab):
        await tab.run(RESPONSES % json.dumps(responses))
        notes = []
        for number in range(3):
            cards = await choose(tab, images[0], cards=number + 1)
            notes.append(await tab.run("document.querySelector('.note').textContent"))
        assert notes[0] == ""
        assert notes[1].startswith("Not the most likely")
        assert notes[2] == "No label is likely enough."
        assert [card["title"] for card in cards] == ["Uncertain", "b", "a"]

    chromium(test)


def test_page_shows_fifty_images_and_counts_the_others(tmp_path, chromium):
    files = [tmp_path / f"{number:02}.png" for number in range(53)]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)

    async def test(tab):
        await tab.choose("#pick", *files)
        assert (await tab.run(NOTICE)).startswith("Only the first 50 images are shown; 3 more ")
        await tab.until(DONE % 50)
        assert [card["name"] for card in await tab.run(CARDS)] == [f.name for f in files[:50]]
        await tab.choose("#pick", files[52])
        await tab.until("document.querySelector('.name').textContent == '52.png' && " + DONE % 50)
        assert await tab.run(NOTICE) == ""

    chromium(test)


def test_page_refuses_text_and_folders(tmp_path, chromium):
    async def test(tab):
        await tab.run(DROP_TEXT)
        assert (await tab.run(NOTICE)).startswith("That is not a file")
        data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await tab.call("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)
        await tab.until(DONE % 1)
        (card,) = await tab.run(CARDS)
        assert card["title"] == "The file can't be read; folders are not supported."
        tab.complaints = [c for c in tab.complaints if "FILE_NOT_FOUND" not in c["entry"]["text"]]

    chromium(test)
