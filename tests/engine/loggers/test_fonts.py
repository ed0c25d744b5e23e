"""Names in any script: with fonts that have their letters, or else transliterated."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from engine.loggers import fonts, plots
from engine.loggers.plots import PlottedPrediction

NAMES = ["猫", "ネコ", "개", "$a_b$", "a\x07", "\udcff"]
IMAGE = np.zeros((20, 20, 3), np.uint8)


@pytest.fixture
def without_other_fonts(monkeypatch):
    """Of what may be installed here, DejaVu Sans alone, which has no such letters."""
    alone = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", alone)


@fonts.as_png
def write(*names: str) -> Figure:
    figure = Figure()
    for name in names:
        figure.text(0, 0, name)
    return figure


@pytest.fixture
def written(monkeypatch):
    """Writes names; returns the texts that are drawn, and the families of the first one."""
    figures = []
    png = fonts.png
    monkeypatch.setattr(fonts, "png", lambda figure: figures.append(figure) or png(figure))

    def texts(*names):
        write(*names)
        drawn = figures[-1].texts
        return [text.get_text() for text in drawn], drawn[0].get_fontfamily()

    return texts


@pytest.mark.usefixtures("without_other_fonts")
def test_missing_letters_are_transliterated_and_the_plot_says_so(written):
    assert written("café", "кот\n$x$")[0] == ["café", "кот\n$x$"]
    texts, _ = written("猫", "ネコ 1", "개", "a\x07", "\udcff")
    assert texts == ["[732b]", "neko 1", "gae", "a\\x07", "\\xff", fonts.NOTE]


@pytest.mark.usefixtures("without_other_fonts")
def test_plots_of_names_in_any_script_warn_of_nothing():
    names = ("train_accuracy", "val_accuracy", "train_loss", "val_loss")
    row = {"phase": "頭", **dict.fromkeys(names, 0.5)}
    items = [PlottedPrediction("写真.jpg", IMAGE, [(name, 0.1) for name in NAMES])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion(np.eye(len(NAMES), dtype=int), NAMES)
        plots.history([row], ["頭"])
        plots.predictions(items)


def test_font_that_has_the_letters_is_taken(written):
    """STIX comes with matplotlib, and has letters that its default font lacks."""
    paths = {font.name: font.fname for font in fonts._plain_fonts()}
    lacking = fonts._letters_of(paths["STIXGeneral"]) - fonts._letters_of(paths["DejaVu Sans"])
    letter = next(chr(code) for code in sorted(lacking) if chr(code).isalpha())
    texts, families = written(f"a{letter}")
    assert texts == [f"a{letter}"]
    default, other = families
    assert default == matplotlib.rcParamsDefault["font.family"][0]
    assert ord(letter) in fonts._letters_of(paths[other])


def test_font_of_boxes_is_never_taken():
    assert any(font.name.startswith("Last Resort") for font in fontManager.ttflist)
    assert not any(font.name.startswith("Last Resort") for font in fonts._plain_fonts())
