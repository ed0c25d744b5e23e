"""Several machines beside each other: what is matched, what it costs, and the image of it."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from engine.benchmark import compare as comparing
from engine.benchmark.compare import compare, draw, plot
from engine.benchmark.matching import blocks, cost, machines
from engine.benchmark.rows import Rate
from tests.engine.benchmark.made import report, row, with_gpus

TITLE = "efficientnet_lite0 224x192, float32, phase fine_tune"
L4 = report(row(whole=2000.0), instance_type="g6.xlarge", price_per_hour=0.8048)
A100 = report(row(whole=8000.0), instance_type="a2-highgpu-1g", price_per_hour=3.673)
CPU = report(row(whole=80.0))


def test_the_cost_of_a_million_images():
    """At 2,000 images/s a million takes 500 s, which is 0.1389 of an hour."""
    assert cost(0.8048, 2000.0) == pytest.approx(0.8048 * 500 / 3600)
    assert cost(3600.0, 1.0) == pytest.approx(1e6)
    assert cost(0.0, 5.0) == 0
    assert cost(None, 5.0) is None


def shape(reports) -> dict[str, list[tuple]]:
    return {
        title: [(entry.machine, entry.row.batch_size, entry.row.whole.median) for entry in entries]
        for title, entries in blocks(reports).items()
    }


def test_rows_are_matched_and_the_fastest_comes_first():
    assert shape([CPU, L4, A100]) == {
        f"{TITLE}, batch 32": [
            ("a2-highgpu-1g", 32, 8000.0),
            ("g6.xlarge", 32, 2000.0),
            ("AMD EPYC, 2 cores", 32, 80.0),
        ]
    }


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "resnet50"},
        {"image_size": (192, 224)},
        {"precision": "mixed_bfloat16"},
        {"phase": "transfer"},
    ],
)
def test_what_differs_is_not_compared(change):
    found = shape([CPU, report(row(**change), instance_type="other")])
    assert [len(entries) for entries in found.values()] == [1, 1]


def test_the_same_batch_sizes_are_compared_one_by_one():
    many = [row(whole=100.0 + size, batch_size=size) for size in (64, 16)]
    found = shape([report(*many, instance_type=name) for name in ("a", "b")])
    assert found == {
        f"{TITLE}, batch 16": [("a", 16, 116.0), ("b", 16, 116.0)],
        f"{TITLE}, batch 64": [("a", 64, 164.0), ("b", 64, 164.0)],
    }


def test_of_different_batch_sizes_each_machine_has_its_best():
    first = report(row(70.0, batch_size=16), row(90.0, batch_size=32), row(80.0, batch_size=64))
    second = report(row(500.0, batch_size=32), row(600.0, batch_size=256), instance_type="gpu")
    assert shape([first, second]) == {
        f"{TITLE}, best batch size": [("gpu", 256, 600.0), ("AMD EPYC, 2 cores", 32, 90.0)]
    }


def test_machines_of_one_name_are_told_apart():
    long = report(instance_type="x" * 100)
    names = machines([CPU, L4, CPU, long, long])
    assert names[:3] == ["AMD EPYC, 2 cores #1", "g6.xlarge", "AMD EPYC, 2 cores #2"]
    assert len(set(names)) == 5
    assert max(map(len, names)) < 50


def test_the_table_prints_rates_and_costs():
    """8,000 images/s are 28.8 million an hour: of 3.673 that makes 0.1275 for each."""
    lines = [" ".join(line.split()) for line in compare([CPU, L4, A100]).splitlines()]
    assert "a2-highgpu-1g 32 8,000 ±10% 5800% 2 GB 0.128" in lines
    assert "g6.xlarge 32 2,000 ±10% 1450% 2 GB 0.112" in lines
    assert "AMD EPYC, 2 cores 32 80.0 ±10% 58% 2 GB -" in lines


def test_the_table_says_what_each_machine_is_within_a_hundred_letters():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA RTX 6000 Ada Generation")
    long = report(row(backbone="b" * 150), machine=with_gpus(*names), instance_type="y" * 90)
    text = compare([L4, long])
    assert max(map(len, text.splitlines())) <= 100
    assert "g6.xlarge: no GPU in use, AMD EPYC, 2 cores, TensorFlow 2.21.0, 0.8048 an hour" in text
    assert all(name in " ".join(text.split()) for name in names)


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_are_as_long_as_the_rates_and_the_costs():
    speeds, costs = draw([CPU, L4, A100]).axes
    assert [bar.get_width() for bar in speeds.patches] == [8000.0, 2000.0, 80.0]
    assert texts(speeds) == ["8,000", "2,000", "80.0"]
    names = [label.get_text() for label in speeds.get_yticklabels()]
    assert names == ["a2-highgpu-1g", "g6.xlarge", "AMD EPYC, 2 cores"]
    np.testing.assert_allclose(
        [bar.get_width() for bar in costs.patches], [3.673 / 28.8, 0.8048 / 7.2, 0]
    )
    assert texts(costs) == ["0.128", "0.112", "no price"]
    heights = [speeds.transData.transform((0, bar.get_y()))[1] for bar in speeds.patches]
    assert heights == sorted(heights, reverse=True), "the fastest stands on top"


def test_error_bars_reach_from_quartile_to_quartile():
    lopsided = dataclasses.replace(row(), whole=Rate(2000.0, low=1900.0, high=2400.0, repeats=5))
    speeds = draw([report(lopsided)]).axes[0]
    (segments,) = [line.get_segments() for line in speeds.collections]
    np.testing.assert_allclose(segments, [[[1900.0, 0.0], [2400.0, 0.0]]])
    assert speeds.get_xlim()[1] > 2400


def test_without_prices_there_is_one_column():
    alone, priced = draw([CPU, CPU]), draw([CPU, L4])
    assert len(alone.axes) == 1
    assert len(priced.axes) == 2
    assert alone.get_size_inches()[0] < priced.get_size_inches()[0]


def test_a_machine_keeps_its_colour_and_each_block_has_its_title():
    both = (row(whole=10.0), row(whole=90.0, phase="transfer"))
    figure = draw(
        [report(*both, instance_type="a"), report(row(50.0), row(20.0, phase="transfer"))]
    )
    shown = [
        dict(zip((t.get_text() for t in axes.get_yticklabels()),
                 (bar.get_facecolor() for bar in axes.patches), strict=True))
        for axes in figure.axes
    ]  # fmt: skip
    assert shown[0] == shown[1]
    assert len(set(shown[0].values())) == 2
    titles = {text.get_text() for text in figure.texts}
    assert {f"{TITLE}, batch 32", f"{TITLE.replace('fine_tune', 'transfer')}, batch 32"} <= titles


def test_the_batch_stands_by_the_name_where_it_differs():
    speeds = draw([report(row(batch_size=16)), report(row(batch_size=64), instance_type="b")]).axes
    names = {label.get_text() for label in speeds[0].get_yticklabels()}
    assert names == {"AMD EPYC, 2 cores, batch 16", "b, batch 64"}


@pytest.mark.parametrize(
    ("names", "price"),
    [(("M" * 4 + "x" * 90, "W" * 3 + "y" * 90), 12.3456), (("a", "b"), None)],
    ids=["long", "short"],
)
def test_nothing_overlaps_and_nothing_is_cut_off(names, price):
    """Every text, with the longest titles that are shown, lies inside and clear of the others."""
    made = [
        report(row(99_999.0, batch_size=place + 1024, backbone="b" * 90), row(0.02, phase="x"),
               instance_type=name, price_per_hour=price)
        for place, name in enumerate(names)
    ]  # fmt: skip
    figure = draw(made)
    figure.draw_without_rendering()
    shown = list(figure.texts)
    for axes in figure.axes:
        shown += [*axes.texts, *axes.get_yticklabels()]
    extents = [text.get_window_extent() for text in shown]
    page = figure.bbox
    for text, extent in zip(shown, extents, strict=True):
        across = page.x0 <= extent.x0 and extent.x1 <= page.x1
        assert across, text.get_text()
        upright = page.y0 <= extent.y0 and extent.y1 <= page.y1
        assert upright, text.get_text()
    for place, extent in enumerate(extents):
        for other, text in zip(extents[:place], shown, strict=False):
            assert not extent.overlaps(other), (text.get_text(), shown[place].get_text())


def test_the_image_has_the_colours_of_its_bars():
    shown = pixels(plot([CPU, L4]))
    for colour in comparing.PALETTE[:2]:
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert np.all(shown == rgb, axis=-1).any()


def test_names_are_names_and_no_formulas():
    odd = report(row(phase="$\\frac$"), instance_type="a$b$c{")
    assert pixels(plot([odd, odd])).std() > 0


def test_there_are_never_more_bars_than_a_png_holds(monkeypatch):
    tallest = (comparing.HEAD + comparing.BAR) * comparing.MOST + 2 * comparing.MARGIN
    assert tallest * comparing.DOTS < 2**16
    monkeypatch.setattr(comparing, "MOST", 3)
    made = [report(row(phase="a"), row(phase="b"), row(phase="c"), instance_type=n) for n in "xy"]
    figure = draw(made)
    assert [len(axes.patches) for axes in figure.axes] == [2, 1]
    assert "3 more bars are in the table only" in [text.get_text() for text in figure.texts]
