"""Plots: each is a PNG that Pillow reads, with the data it was given."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from engine.loggers import fonts, plots
from engine.loggers.plots import PlottedPrediction

ODD = ("a$b$c{", "$\\frac$", "täglich")  # what matplotlib would read as a formula
RED = np.full((30, 40, 3), (250, 10, 20), np.uint8)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures behind the images."""
    figures = []
    png = fonts.png

    def keep(figure):
        figures.append(figure)
        return png(figure)

    monkeypatch.setattr(fonts, "png", keep)
    return figures


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def rows(*phases: str) -> list[dict]:
    return [
        {"phase": phase, "train_accuracy": 0.1 * n, "val_accuracy": 0.2 * n,
         "train_loss": 1 / (n + 1), "val_loss": 2 / (n + 1)}
        for n, phase in enumerate(phases)
    ]  # fmt: skip


def test_history_plots_all_epochs(drawn):
    history = rows("transfer", "transfer", "tune", "tune", "tune")
    assert pixels(plots.history(history, ["transfer", "skipped", "tune"])).std() > 0
    for axes, what in zip(drawn[0].axes, ("accuracy", "loss"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for label, part in (("training", "train"), ("validation", "val")):
            assert list(lines[label].get_xdata()) == [1, 2, 3, 4, 5]
            assert list(lines[label].get_ydata()) == [row[f"{part}_{what}"] for row in history]
        assert {text.get_text(): text.get_position()[0] for text in axes.texts} == {
            "transfer": 1.5,
            "tune": 4.0,
        }
        borders = [line for name, line in lines.items() if name.startswith("_")]
        assert [line.get_xdata()[0] for line in borders] == [2.5]


def test_history_of_one_epoch_with_nan(drawn):
    one = rows("transfer")
    one[0]["val_loss"] = float("nan")
    assert pixels(plots.history(one, ["transfer"])).shape[2] == 3


def test_confusion_matrix_shows_counts(drawn):
    matrix = np.array([[5, 1], [0, 0]])
    plots.confusion(matrix, ["cat", "dog"])
    axes = drawn[0].axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "5", (1, 0): "1", (0, 1): "0", (1, 1): "0"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[5 / 6, 1 / 6], [0, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "given")


@pytest.mark.parametrize(("classes", "named", "counted"), [(21, True, False), (41, False, False)])
def test_confusion_matrix_omits_illegible_text(drawn, classes, named, counted):
    plots.confusion(np.eye(classes, dtype=int), [f"class {n}" for n in range(classes)])
    axes = drawn[0].axes[0]
    assert any(t.get_text().startswith("class") for t in axes.get_xticklabels()) == named
    assert bool(axes.texts) == counted


def test_prediction_shows_image_and_bars(drawn):
    labels = [("crane", 0.6), ("crane", 0.3), ("other", 0.1)]
    plots.predictions([PlottedPrediction("a.jpg", RED, labels)])
    left, right = drawn[0].axes
    np.testing.assert_array_equal(left.images[0].get_array(), RED)
    assert (left.get_title(), right.get_title()) == ("a.jpg", "")
    assert [bar.get_width() for bar in right.patches] == [0.6, 0.3, 0.1], "two are named crane"
    assert [label.get_text() for label in right.get_yticklabels()] == ["crane", "crane", "other"]
    heights = [right.transData.transform((0, bar.get_y()))[1] for bar in right.patches]
    assert heights == sorted(heights, reverse=True), "the first is on top"


def test_evidence_is_between_image_and_bars(drawn):
    labels = [("cat", 0.7), ("dog", 0.3)]
    first = PlottedPrediction("a.jpg", RED, labels, "dog", (255 - RED, "dog"))
    plots.predictions([first, PlottedPrediction("b.jpg", RED, labels, "uncertain", (RED, "cat"))])
    axes = drawn[0].axes
    assert [one.get_title() for one in axes] == [
        *("a.jpg", "evidence for dog", "-> dog"),
        *("b.jpg", "evidence for cat", "-> uncertain"),
    ]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), RED)
    np.testing.assert_array_equal(axes[1].images[0].get_array(), 255 - RED)
    assert [bar.get_width() for bar in axes[2].patches] == [0.7, 0.3]
    assert axes[0].get_position().x1 < axes[1].get_position().x0 < axes[2].get_position().x0


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("shape", [(30, 40), (10, 300), (300, 10)])
def test_long_names_fit_their_column(drawn, seen, shape):
    """For any shape of the image; their ends tell them apart."""
    image = np.zeros([*shape, 3], np.uint8)
    path, name = "/first/" + "folder/" * 40 + "last.jpg", "begin " + "of a long name " * 20 + "end"
    labels, evidence = [(name, 0.9), ("red", 0.1)], (image, name) if seen else None
    plots.predictions([PlottedPrediction(path, image, labels, name, evidence)] * 2)
    figure = drawn[0]
    axes = figure.axes[: 3 if seen else 2]
    boxes = [one.title.get_window_extent() for one in axes]
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.width
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert axes[0].get_title().startswith("/first/")
    assert axes[0].get_title().endswith("/last.jpg")
    bar = axes[-1].get_yticklabels()[0]
    for text in (axes[-1].get_title(), bar.get_text()):
        assert "begin" in text
        assert "…" in text
        assert text.endswith("end")
    assert bar.get_window_extent().x0 > axes[-2].get_window_extent().x1
    assert axes[-1].get_yticklabels()[1].get_text() == "red"


@pytest.mark.parametrize("letters", ["Wi", "iW", "W", "i"])
@pytest.mark.parametrize("width", [5, 60, 200])
def test_shortened_text_is_no_wider_than_its_column(letters, width):
    ends, middle = letters[0] * 50, letters[-1] * 100
    text = plots._shorten(ends + middle + ends, width)
    assert plots._text_width(text) <= max(width, plots._text_width("…"))
    assert text == "…" or (text[0], text[-1]) == (letters[0], letters[0])


def test_names_are_not_formulas():
    labels = [(name, 0.25) for name in ODD]
    plots.confusion(np.eye(3, dtype=int), ODD)
    plots.predictions([PlottedPrediction(ODD[0], RED, labels, ODD[1], (RED, ODD[2]))])


def test_plots_are_limited_to_png_size(drawn, monkeypatch):
    """The largest plot stays below 2**16 pixels on a side; small limits show the cut."""
    assert 3.2 * 100 * plots.MAX_IMAGES < 2**16
    monkeypatch.setattr(plots, "MAX_IMAGES", 3)
    plots.predictions([PlottedPrediction("a.jpg", RED, [("red", 1.0)])] * 5)
    assert [len(figure.axes) for figure in drawn] == [6]


def test_empty_plot_is_white():
    assert pixels(plots.predictions([])).min() == 255
