"""The comparison of several machines: groups, costs, table and plot."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from engine.benchmark import compare as comparing
from engine.benchmark.compare import (
    compare,
    cost_per_million,
    draw,
    group_measurements,
    machine_names,
    plot,
)
from engine.benchmark.measurement import Rate
from tests.engine.benchmark.benchmark_reports import measurement, report, with_gpus

TITLE = "efficientnet_lite0 224x192, float32, phase fine_tune"
L4 = report(measurement(whole=2000.0), instance_type="g6.xlarge", price_per_hour=0.8048)
A100 = report(measurement(whole=8000.0), instance_type="a2-highgpu-1g", price_per_hour=3.673)
CPU = report(measurement(whole=80.0))


def test_cost_per_million_by_hand():
    """At 2,000 images/s a million takes 500 s, which is 0.1389 of an hour."""
    assert cost_per_million(0.8048, 2000.0) == pytest.approx(0.8048 * 500 / 3600)
    assert cost_per_million(3600.0, 1.0) == pytest.approx(1e6)
    assert cost_per_million(0.0, 5.0) == 0
    assert cost_per_million(None, 5.0) is None


def shape(reports) -> dict[str, list[tuple]]:
    return {
        title: [(entry.machine, entry.measurement.batch_size, entry.speed) for entry in entries]
        for title, entries in group_measurements(reports).items()
    }


def test_groups_list_fastest_first():
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
def test_groups_separate_different_workloads(change):
    groups = shape([CPU, report(measurement(**change), instance_type="other")])
    assert [len(entries) for entries in groups.values()] == [1, 1]


def test_groups_of_equal_batch_sizes_are_separate():
    many = [measurement(whole=100.0 + size, batch_size=size) for size in (64, 16)]
    groups = shape([report(*many, instance_type=name) for name in ("a", "b")])
    assert groups == {
        f"{TITLE}, batch 16": [("a", 16, 116.0), ("b", 16, 116.0)],
        f"{TITLE}, batch 64": [("a", 64, 164.0), ("b", 64, 164.0)],
    }


def test_groups_of_different_batch_sizes_hold_best():
    first = report(
        measurement(70.0, batch_size=16),
        measurement(90.0, batch_size=32),
        measurement(80.0, batch_size=64),
    )
    second = report(
        measurement(500.0, batch_size=32), measurement(600.0, batch_size=256), instance_type="gpu"
    )
    assert shape([first, second]) == {
        f"{TITLE}, best batch size": [("gpu", 256, 600.0), ("AMD EPYC, 2 cores", 32, 90.0)]
    }


def test_machine_names_are_unique():
    long = report(instance_type="x" * 100)
    names = machine_names([CPU, L4, CPU, long, long])
    assert names[:3] == ["AMD EPYC, 2 cores #1", "g6.xlarge", "AMD EPYC, 2 cores #2"]
    assert len(set(names)) == 5
    assert max(map(len, names)) < 50


def test_table_shows_rates_and_costs():
    """8,000 images/s are 28.8 million an hour: of 3.673 that makes 0.1275 for each."""
    lines = [" ".join(line.split()) for line in compare([CPU, L4, A100]).splitlines()]
    assert "a2-highgpu-1g 32 8,000 ±10% 5800% 2 GB 0.128" in lines
    assert "g6.xlarge 32 2,000 ±10% 1450% 2 GB 0.112" in lines
    assert "AMD EPYC, 2 cores 32 80.0 ±10% 58% 2 GB -" in lines


def test_table_describes_machines_within_100_letters():
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA RTX 6000 Ada Generation")
    long = report(
        measurement(backbone="b" * 150), machine=with_gpus(*names), instance_type="y" * 90
    )
    text = compare([L4, long])
    assert max(map(len, text.splitlines())) <= 100
    assert "g6.xlarge: no GPU in use, AMD EPYC, 2 cores, TensorFlow 2.21.0, 0.8048 an hour" in text
    assert all(name in " ".join(text.split()) for name in names)


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def test_plot_bars_have_length_of_rates_and_costs():
    speeds, costs = draw([CPU, L4, A100]).axes
    assert [bar.get_width() for bar in speeds.patches] == [8000.0, 2000.0, 80.0]
    assert texts(speeds.texts) == ["8,000", "2,000", "80.0"]
    assert texts(speeds.get_yticklabels()) == ["a2-highgpu-1g", "g6.xlarge", "AMD EPYC, 2 cores"]
    np.testing.assert_allclose(
        [bar.get_width() for bar in costs.patches], [3.673 / 28.8, 0.8048 / 7.2, 0]
    )
    assert texts(costs.texts) == ["0.128", "0.112", "no price"]
    heights = [speeds.transData.transform((0, bar.get_y()))[1] for bar in speeds.patches]
    assert heights == sorted(heights, reverse=True), "the fastest is on top"


def test_plot_error_bars_span_quartiles():
    lopsided = dataclasses.replace(
        measurement(), whole=Rate(2000.0, low=1900.0, high=2400.0, repeats=5)
    )
    speeds = draw([report(lopsided)]).axes[0]
    (segments,) = [line.get_segments() for line in speeds.collections]
    np.testing.assert_allclose(segments, [[[1900.0, 0.0], [2400.0, 0.0]]])
    assert speeds.get_xlim()[1] > 2400


def test_plot_without_prices_has_one_column():
    assert len(draw([CPU, CPU]).axes) == 1
    assert len(draw([CPU, L4]).axes) == 2


def test_plot_keeps_machine_colors_and_group_titles():
    both = (measurement(whole=10.0), measurement(whole=90.0, phase="transfer"))
    other = report(measurement(50.0), measurement(20.0, phase="transfer"))
    figure = draw([report(*both, instance_type="a"), other])
    shown = [
        {
            name: bar.get_facecolor()
            for name, bar in zip(texts(axes.get_yticklabels()), axes.patches, strict=True)
        }
        for axes in figure.axes
    ]
    assert shown[0] == shown[1]
    assert len(set(shown[0].values())) == 2
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [f"{TITLE}, batch 32", f"{TITLE.replace('fine_tune', 'transfer')}, batch 32"]


def test_plot_names_batch_sizes_that_differ():
    speeds = draw(
        [report(measurement(batch_size=16)), report(measurement(batch_size=64), instance_type="b")]
    ).axes
    names = texts(speeds[0].get_yticklabels())
    assert sorted(names) == ["AMD EPYC, 2 cores, batch 16", "b, batch 64"]


@pytest.mark.parametrize("price", [None, 12.3456])
def test_plot_texts_do_not_overlap(price):
    """Every text lies inside and clear of the others, with the longest titles that are shown."""
    reports = [
        report(
            measurement(99_999.0, batch_size=size, backbone="b" * 90),
            measurement(0.02, phase="x"),
            instance_type=name,
            price_per_hour=price,
        )
        for name, size in (("M" * 4 + "x" * 90, 1024), ("W" * 3 + "y" * 90, 1025))
    ]
    figure = draw(reports)
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    extents = [text.get_window_extent() for text in shown]
    for text, extent in zip(shown, extents, strict=True):
        assert Bbox.union([figure.bbox, extent]).bounds == figure.bbox.bounds, text.get_text()
    for (one, first), (other, second) in itertools.combinations(
        zip(shown, extents, strict=True), 2
    ):
        assert not first.overlaps(second), (one.get_text(), other.get_text())


def test_plot_image_has_bar_colors_and_shows_dollar_signs_literally():
    odd = [report(measurement(phase="$\\frac$"), instance_type=name) for name in ("a$b$c{", "b")]
    with Image.open(io.BytesIO(plot(odd))) as image:
        assert image.format == "PNG"
        shown = np.asarray(image.convert("RGB"))
    for colour in comparing.PALETTE[:2]:
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert np.all(shown == rgb, axis=-1).any()


def test_plot_limits_number_of_groups(monkeypatch):
    assert comparing.MAX_HEIGHT * comparing.DOTS_PER_INCH < 2**16
    monkeypatch.setattr(comparing, "MAX_GROUPS", 2)
    figure = draw([report(*(measurement(phase=phase) for phase in "abc"))])
    assert len(figure.axes) == 2
    assert figure.get_supxlabel() == "1 more groups are in the table only"
