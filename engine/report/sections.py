"""Sections of a page, and the elements that several of them share."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.report import charts
from engine.report.formatting import percent
from engine.report.markup import Markup, details, escape, tag


class Section(NamedTuple):
    """A section of a page.

    anchor: its id.
    title: its heading.
    short: its entry in the contents.
    """

    anchor: str
    title: str
    short: str
    body: Markup


def render(section: Section) -> Markup:
    heading = f"{section.anchor}-title"
    return tag(
        "section",
        tag("h2", section.title, id=heading),
        section.body,
        id=section.anchor,
        aria_labelledby=heading,
    )


def heading(text: str) -> Markup:
    return tag("h3", text)


def figure(chart: Markup, caption: str, numbers: Markup, legend: Markup | None = None) -> Markup:
    """A chart with its caption, and its numbers in a folded table."""
    return tag(
        "figure",
        tag("figcaption", caption),
        legend or Markup(),
        chart,
        details("Data", numbers),
    )


def legend(names: Sequence[str]) -> Markup:
    """A legend of lines in the order of `charts.STYLES`."""
    return tag(
        "ul",
        *[
            tag("li", tag("span", style=charts.legend_style(index)), name)
            for index, name in enumerate(names)
        ],
        class_="legend",
    )


def image(jpeg: bytes, alt: str) -> Markup:
    data = base64.b64encode(jpeg).decode()
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=alt)


def bar(share: float) -> Markup:
    """A bar, hidden from screen readers; the number is beside it."""
    inner = tag("span", style=f"width: {min(max(share, 0), 1):.2%}")
    return tag("span", inner, class_="bar", aria_hidden="true")


def strong(text: str) -> Markup:
    return tag("strong", text)


def sentence(*parts: str) -> Markup:
    return Markup("".join(map(escape, parts)))


def max_up_to(x: np.ndarray, y: np.ndarray, limits: Sequence[float]) -> list[str]:
    """Formats the maximum of y up to each x: the recall at a false alarm rate of at most x."""
    return [percent(float(y[x <= limit].max(initial=0.0)), 1) for limit in limits]


def max_from(x: np.ndarray, y: np.ndarray, limits: Sequence[float]) -> list[str]:
    """Formats the maximum of y from each x on: the precision at a recall of at least x."""
    return [percent(float(y[x >= limit].max(initial=0.0)), 1) for limit in limits]
