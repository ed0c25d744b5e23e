"""The page in a browser: it opens from the disk, requests nothing, and fits a phone."""

import asyncio
import dataclasses

import pytest

from engine.report.page import page
from tests.engine.report import example_report as example
from tests.engine.serving import browser

pytestmark = pytest.mark.skipif(not browser.PROGRAM, reason="needs Chromium")

WIDTHS = (375, 1280)
MEASURE = """(() => {
  const over = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, .skip, svg") && e.getBoundingClientRect().right > %d + 0.5);
  const visible = [...document.images].every(i => i.complete && i.naturalWidth > 0);
  const root = document.documentElement;
  return [root.scrollWidth - root.clientWidth, over.map(e => e.tagName).join(" "), visible];
})()"""


@pytest.fixture
def look(tmp_path):
    """Opens a page; returns the errors that are logged and, for each of WIDTHS, how much wider the
    page is, the tags that reach beyond the window, and whether all images are visible.
    """

    async def measure(address: str) -> tuple[list, list]:
        async with browser.browser(tmp_path) as tab:
            measured = []
            for width in WIDTHS:
                await tab.open(address, width)
                measured.append(await tab.run(MEASURE % width))
            return tab.complaints, measured

    def opened(shown: str) -> tuple[list, list]:
        path = tmp_path / "report.html"
        path.write_text(shown)
        return asyncio.run(measure(path.as_uri()))

    return opened


@pytest.mark.parametrize("classes", [2, 12, 60])
def test_page_fits_the_window_and_logs_no_error(look, classes):
    report = example.report(classes, images=600)
    names = ("/data/" + "very_long_name_" * 8 + f"{n}.jpg" for n in range(2))
    mistakes = tuple(dataclasses.replace(report.mistakes[0], name=name) for name in names)
    shown = page(dataclasses.replace(report, mistakes=mistakes))
    assert look(shown) == ([], [[0, "", True] for _ in WIDTHS])


def test_page_that_is_too_wide_or_requests_an_image_is_reported(look):
    faults = '<p style="width: 600px; max-width: none">x</p><img src="http://127.0.0.1:9/x.png">'
    errors, measured = look(page(example.report()).replace("</main>", f"{faults}</main>"))
    assert "Content Security Policy" in str(errors)
    assert measured[0][0] > 0
    assert "P" in measured[0][1].split()
    assert not measured[0][2]
