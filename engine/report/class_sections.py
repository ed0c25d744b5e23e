"""Sections on the classes: metrics, confusion, curves."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.evaluation.classification_metrics import ClassificationMetrics, ClassMetrics, Curve
from engine.report import charts
from engine.report.document import Section
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, details, join, paragraph, scroll, table, tag
from engine.report.report_data import ReportData

MAX_MATRIX_CLASSES = 20  # above this, confusion is a chart instead of a table
MAX_ROWS = 30  # above this, the table of classes folds
WORST_CLASSES = 15
MIN_UPRIGHT_CLASSES = 6  # from here on, names over columns are written vertically
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def classes(data: ReportData) -> Section:
    rows = data.metrics.per_class
    body = _table("Metrics of each class", rows)
    if len(rows) > MAX_ROWS:
        occurring = [row for row in rows if row.support]
        worst = sorted(occurring, key=operator.attrgetter("f1"))[:WORST_CLASSES]
        first = _table(f"The {len(worst)} classes with the lowest F1", worst)
        body = join([first, details(f"All {len(rows):,} classes", body)])
    intro = paragraph(
        "Precision is the share of a class’s predictions that are right, recall the share of its "
        "images that are found, F1 their harmonic mean. The 95 % interval covers the F1 of other "
        "images like these."
    )
    return Section("classes", "Classes", "Classes", join([intro, body]))


def _table(caption: str, rows: Sequence[ClassMetrics]) -> Markup:
    heads = (
        *("class", "images", "precision", "recall", "F1", "F1, 95 % interval"),
        *("ROC area", "average precision"),
    )
    return table(caption, heads, [_row(row) for row in rows])


def _row(row: ClassMetrics) -> Sequence[str]:
    if not row.support:
        return (row.name, "0", *["–"] * 6)
    shares = [percent(value) for value in (row.precision, row.recall, row.f1)]
    known = (row.roc_area, row.average_precision)
    areas = ["–" if value is None else f"{value:.4f}" for value in known]
    return (row.name, f"{row.support:,}", *shares, span(row.f1_interval, 1), *areas)


def confusion(data: ReportData) -> Section:
    metrics = data.metrics
    few = len(metrics.per_class) <= MAX_MATRIX_CLASSES
    parts = [_matrix(metrics) if few else _chart(metrics)]
    if metrics.confused_pairs:
        rows = [(pair.given, pair.predicted, f"{pair.count:,}") for pair in metrics.confused_pairs]
        heads = ("label", "predicted", "images")
        parts.append(table("Most confused pairs", heads, rows, class_="pairs"))
    else:
        parts.append(paragraph("No image was misclassified."))
    return Section("confusion", "Confusion matrix", "Confusion", join(parts))


def _matrix(metrics: ClassificationMetrics) -> Markup:
    names = [row.name for row in metrics.per_class]
    shares = metrics.confusion / np.maximum(metrics.confusion.sum(1, keepdims=True), 1)
    corner = tag("td", "label ↓ predicted →", class_="muted")
    rows = [tag("tr", corner, *[tag("th", name, scope="col") for name in names])]
    for label, name in enumerate(names):
        cells = [
            tag(
                "td",
                f"{int(number):,}",
                style=f"--share: {shares[label, column]:.3f}",
                class_="right" if label == column else None,
            )
            for column, number in enumerate(metrics.confusion[label])
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = "Images by label (down) and prediction (across)"
    style = "confusion upright" if len(names) >= MIN_UPRIGHT_CLASSES else "confusion"
    parts = (tag("caption", caption), tag("thead", rows[0]), tag("tbody", *rows[1:]))
    return scroll(caption, tag("table", *parts, class_=style))


def _chart(metrics: ClassificationMetrics) -> Markup:
    number = len(metrics.per_class)
    summary = (
        f"Confusion matrix of {number} classes: {percent(metrics.accuracy)} of "
        f"{count(metrics.count, 'image')} on the diagonal, where label and prediction agree"
    )
    caption = (
        f"Labels down, predictions across, {number:,} classes in the order of the table of all "
        "classes; a stronger color is a larger share of the row (square root scale)."
    )
    step = charts.classes_per_cell(number)
    if step > 1:
        caption += f" A dot is the strongest of {step} × {step} cells."
    chart = charts.heat("heat", summary, metrics.confusion)
    return tag("div", charts.figure(chart, caption), class_="charts")


def curves(data: ReportData) -> Section | None:
    if not data.curves:
        return None
    known = [row for row in data.metrics.per_class if row.roc_area is not None]
    roc_area = np.mean([row.roc_area for row in known])
    average_precision = np.mean([row.average_precision for row in known])
    text = (
        "A curve is of one class against all others: a threshold trades recall for false alarms. "
        f"Mean over all classes with images: ROC area {roc_area:.4f}, average precision "
        f"{average_precision:.4f}."
    )
    if 1 < len(data.curves) < len(known):
        text += f" Shown are the {len(data.curves)} classes that are separated worst."
    roc = _figure(
        {curve.name: curve.roc for curve in data.curves},
        name="roc",
        caption="ROC: recall over false alarms",
        axes_names=("false alarms", "recall"),
        area="area",
        title="Recall at a false alarm rate of at most",
        within=operator.le,
        limits=_FALSE_ALARMS,
    )
    precision_recall = _figure(
        {curve.name: curve.precision_recall for curve in data.curves},
        name="precision",
        caption="Precision over recall",
        axes_names=("recall", "precision"),
        area="average precision",
        title="Precision at a recall of at least",
        within=operator.ge,
        limits=_RECALLS,
    )
    body = join([paragraph(text), tag("div", roc, precision_recall, class_="charts")])
    return Section("curves", "ROC and precision-recall curves", "Curves", body)


def _figure(
    of_classes: dict[str, Curve],
    name: str,
    caption: str,
    axes_names: tuple[str, str],
    area: str,
    title: str,
    within: Callable[[Any, float], Any],
    limits: Sequence[float],
) -> Markup:
    """A chart of curves, and a table of the maximum of y where x is within each limit."""
    rows = []
    for label, (x, y, own_area) in of_classes.items():
        highest = [percent(float(y[within(x, limit)].max(initial=0)), 1) for limit in limits]
        rows.append((label, f"{own_area:.4f}", *highest))
    heads = ("class", area, *(f"at {percent(limit, 0)}" for limit in limits))
    areas = "; ".join(f"{label} {own_area}" for label, own_area, *_ in rows)
    points = [curve[:2] for curve in of_classes.values()]
    steps = name == "precision"
    summary = f"{caption}; {area}: {areas}"
    chart = charts.curves(name, summary, points, axes_names, steps, diagonal=not steps)
    return charts.figure(chart, caption, list(of_classes), table(title, heads, rows))
