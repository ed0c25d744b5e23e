import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from engine.report import charts

X = np.linspace(0, 1, 11)
HISTORY = ("d", "in words", ([0.5, 0.6], [0.4, 0.7]), ["h", "t"], True)
CHARTS = {
    "curves": charts.curves("a", "in words", [(X, X**0.5), (X, X**2)], ("x", "y"), diagonal=True),
    "steps": charts.curves("b", "in words", [(X, X)], ("x", "y"), steps=True),
    "dots": charts.curves("c", "in words", [(X, X, 9 * X)], ("x", "y")),
    "history": charts.history(*HISTORY),
    "heat": charts.heat("e", "in words", np.eye(30, dtype=np.int64)),
}


@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_valid_svg_in_the_pages_colors(name):
    drawing = CHARTS[name]
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ET.fromstring(drawing.replace("<svg ", f"<svg {space} ", 1))
    assert 'role="img" aria-label="in words"' in drawing
    assert "var(--muted)" in drawing
    assert not re.search(r"#[0-9a-f]{6}", drawing), "a color that does not follow the page"
    assert not re.search(r"<style|<metadata|font-family|https?:", drawing)


def test_ids_of_charts_are_unique():
    ids = [set(re.findall(r'\bid="([^"]*)"', drawing)) for drawing in CHARTS.values()]
    assert sum(map(len, ids)) == len(set.union(*ids))
    for drawing, own in zip(CHARTS.values(), ids, strict=True):
        named = re.findall(r'(?:href="#|url\(#)([^")]*)', drawing)
        assert named
        assert set(named) <= own


def test_chart_is_reproducible():
    assert charts.history(*HISTORY) == CHARTS["history"]


def test_lines_differ_without_colors():
    """Solid, dashed, dotted: no two of a color have the same."""
    assert len(set(charts.STYLES)) == len(charts.STYLES)
    assert "stroke-dasharray" in CHARTS["curves"]
    assert "dashed var(--ink)" in charts.figure(CHARTS["curves"], "caption", ["one", "other"])


def test_curve_ends_at_its_values():
    """The curve's ends against the ends of the axes, whose ticks are in the drawing."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--accent\)', CHARTS["steps"])
    points = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", paths[0]), float)
    matches = re.findall(r'<use xlink:href="#b-[^"]*" x="([\d.]+)"', CHARTS["steps"])
    ticks = [float(x) for x in matches]
    assert points[0, 0] == pytest.approx(min(ticks), abs=0.01)
    assert points[-1, 0] == pytest.approx(max(ticks), abs=0.01)
    assert points[0, 1] > points[-1, 1]  # upward


def test_block_maximum_by_hand():
    """Seven classes by threes: blocks of 3, 3 and 1."""
    matrix = np.arange(49.0).reshape(7, 7)
    matrix[0, 1] = 99
    expected = [[99, 19, 20], [37, 40, 41], [44, 47, 48]]
    assert charts.block_maximum(matrix, 3).tolist() == expected
    assert np.array_equal(charts.block_maximum(matrix, 1), matrix)


@pytest.mark.parametrize("classes", [30, 1000])
def test_diagonal_of_many_classes_is_visible(classes):
    """Every class is always right: one cell of each row is full, and no other shows at all."""
    made = charts.heat("heat", "x", np.eye(classes, dtype=int))
    data = re.search(r'href="data:image/png;base64,([^"]*)"', made)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    for axis in (0, 1):
        assert ((alpha > 250).sum(axis) == 1).all()
        assert ((alpha > 0).sum(axis) == 1).all()
    assert len(alpha) == min(classes, 200)
