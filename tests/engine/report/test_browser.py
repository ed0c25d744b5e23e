"""The page in a browser: it opens from the disk, asks for nothing, and fits a phone."""

import pytest

from engine.report.page import page
from tests.engine.report import made_facts as made
from tests.engine.report.browser import dump, measured


@pytest.fixture(scope="module", params=[2, 12, 60])
def shown(request) -> str:
    facts = made.facts(request.param, images=600)
    long = tuple("/data/" + "very_long_name_" * 8 + f"{n}.jpg" for n in range(2))
    mistakes = tuple(
        type(one)(name, one.given, one.predicted, 0.9, facts.mistakes[0].image,
                  facts.mistakes[0].overlay)
        for name, one in zip(long, facts.mistakes, strict=True)
    )  # fmt: skip
    return page(made.facts(request.param, images=600, mistakes=mistakes))


def test_it_opens_from_the_disk_and_the_console_is_silent(shown, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(shown)
    document, console = dump(path)
    assert console == []
    assert "Class by class" in document


def test_a_page_that_reaches_out_would_be_told_of(shown, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(shown.replace("</main>", '<img alt="x" src="http://127.0.0.1:9/x.png"></main>'))
    _, console = dump(path)
    assert "Content Security Policy" in console[0]


@pytest.mark.parametrize("width", [375, 1280])
def test_it_is_no_wider_than_the_window(shown, tmp_path, width):
    window, wide, over, images = measured(shown, tmp_path, width)
    assert (window, wide, over) == (width, width, "")
    assert images


def test_a_page_that_is_too_wide_would_be_told_of(shown, tmp_path):
    wider = shown.replace("</main>", '<p style="width: 600px; max-width: none">x</p></main>')
    _, wide, over, _ = measured(wider, tmp_path, 375)
    assert wide > 375
    assert "P" in over
