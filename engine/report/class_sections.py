"""Sections on the classes: metrics, confusion, curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.evaluation.classification_metrics import ClassificationMetrics, ClassMetrics
from engine.report import charts
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, details, join, paragraph, scroll, table, tag
from engine.report.report_data import ClassCurves, ReportData
from engine.report.sections import Section, figure, legend, max_from, max_up_to, sentence

MAX_MATRIX_CLASSES = 20  # above this, confusion is a chart instead of a table
MAX_ROWS = 30  # above this, the table of classes folds
WORST_CLASSES = 15
MIN_UPRIGHT_CLASSES = 6  # from here on, names over columns are written vertically
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def classes(data: ReportData) -> Section:
    return Section("classes", "Classes", "Classes", _metrics(data.metrics))


def _metrics(metrics: ClassificationMetrics) -> Markup:
    intro = paragraph(
        "Precision is the share of a class’s predictions that are right, recall the share of its "
        "images that are found, F1 their harmonic mean. The 95 % interval covers the F1 of other "
        "images like these."
    )
    rows = metrics.per_class
    if len(rows) <= MAX_ROWS:
        return join([intro, _table("Metrics of each class", rows)])
    worst = sorted((row for row in rows if row.support), key=lambda row: row.f1)[:WORST_CLASSES]
    rest = details(f"All {len(rows):,} classes", _table("Metrics of each class", rows))
    return join([intro, _table(f"The {len(worst)} classes with the lowest F1", worst), rest])


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
    top = [tag("td", "label ↓ predicted →", class_="muted")]
    top += [tag("th", name, scope="col") for name in names]
    rows = [tag("tr", *top)]
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
    return tag("div", tag("figure", tag("figcaption", caption), chart), class_="charts")


def curves(data: ReportData) -> Section | None:
    if not data.curves:
        return None
    several = len(data.subject.classes) > 2
    parts = [paragraph(f"{_of_which(data, several)}. ", _means(data.metrics, several))]
    names = [curve.name for curve in data.curves]
    key = legend(names) if several else None
    parts.append(
        tag("div", _roc(data.curves, key), _precision_recall(data.curves, key), class_="charts")
    )
    return Section("curves", "ROC and precision-recall curves", "Curves", join(parts))


def _of_which(data: ReportData, several: bool) -> str:
    if not several:
        return f"For {data.curves[0].name} against the other class"
    known = sum(row.roc_area is not None for row in data.metrics.per_class)
    if len(data.curves) == known:
        return "For each class against all others"
    return f"For the {len(data.curves)} classes that are separated worst from all others"


def _means(metrics: ClassificationMetrics, several: bool) -> str:
    known = [row for row in metrics.per_class if row.roc_area is not None]
    if not several or not known:
        return "A threshold trades recall for false alarms."
    roc = np.mean([row.roc_area for row in known])
    average = np.mean([row.average_precision for row in known])
    return (
        f"Mean over all classes with images: ROC area {roc:.4f}, average precision {average:.4f}."
    )


def _roc(curves: Sequence[ClassCurves], key: Markup | None) -> Markup:
    areas = "; ".join(f"{curve.name} {curve.roc.area:.4f}" for curve in curves)
    summary = f"ROC curves: recall over the false alarm rate. Areas: {areas}"
    lines = [(curve.roc.x, curve.roc.y) for curve in curves]
    chart = charts.lines("roc", summary, lines, ("false alarms", "recall"), diagonal=True)
    heads = ("class", "area", *[f"at {percent(x, 0)}" for x in _FALSE_ALARMS])
    rows = [
        (c.name, f"{c.roc.area:.4f}", *max_up_to(c.roc.x, c.roc.y, _FALSE_ALARMS)) for c in curves
    ]
    numbers = table("Recall at a false alarm rate of at most", heads, rows)
    return figure(chart, _caption("ROC: recall over false alarms", curves, "roc"), numbers, key)


def _precision_recall(curves: Sequence[ClassCurves], key: Markup | None) -> Markup:
    areas = "; ".join(f"{curve.name} {curve.precision_recall.area:.4f}" for curve in curves)
    summary = f"Precision over recall. Average precision: {areas}"
    lines = [(curve.precision_recall.x, curve.precision_recall.y) for curve in curves]
    chart = charts.lines("precision", summary, lines, ("recall", "precision"), steps=True)
    heads = ("class", "average", *[f"at {percent(x, 0)}" for x in _RECALLS])
    rows = []
    for curve in curves:
        of = curve.precision_recall
        rows.append((curve.name, f"{of.area:.4f}", *max_from(of.x, of.y, _RECALLS)))
    numbers = table("Precision at a recall of at least", heads, rows)
    caption = _caption("Precision over recall", curves, "precision_recall")
    return figure(chart, caption, numbers, key)


def _caption(what: str, curves: Sequence[ClassCurves], name: str) -> str:
    if len(curves) > 1:
        return what
    area = getattr(curves[0], name).area
    word = "area" if name == "roc" else "average precision"
    return sentence(what, f"; {word} {area:.4f}")
