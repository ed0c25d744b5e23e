"""The page in a browser: it opens from the disk, asks for nothing, and fits a phone."""

import pytest

from engine.report.page import page
from tests.engine.report import example_report as example
from tests.engine.report.browser import dump, measured


@pytest.fixture(scope="module", params=[2, 12, 60])
def shown(request) -> str:
    report = example.report(request.param, images=600)
    long = tuple("/data/" + "very_long_name_" * 8 + f"{n}.jpg" for n in range(2))
    mistakes = tuple(
        type(one)(name, one.given, one.predicted, 0.9, report.mistakes[0].image,
                  report.mistakes[0].overlay)
        for name, one in zip(long, report.mistakes, strict=True)
    )  # fmt: skip
    return page(example.report(request.param, images=600, mistakes=mistakes))


def test_page_opens_without_console_messages(shown, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(shown)
    document, console = dump(path)
    assert console == []
    assert "Metrics of each class" in document


def test_page_with_an_external_image_is_reported(shown, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(shown.replace("</main>", '<img alt="x" src="http://127.0.0.1:9/x.png"></main>'))
    _, console = dump(path)
    assert "Content Security Policy" in console[0]


@pytest.mark.parametrize("width", [375, 1280])
def test_page_fits_the_window(shown, tmp_path, width):
    window, wide, over, images = measured(shown, tmp_path, width)
    assert (window, wide, over) == (width, width, "")
    assert images


def test_page_that_is_too_wide_is_reported(shown, tmp_path):
    wider = shown.replace("</main>", '<p style="width: 600px; max-width: none">x</p></main>')
    _, wide, over, _ = measured(wider, tmp_path, 375)
    assert wide > 375
    assert "P" in over
