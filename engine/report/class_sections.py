"""Sections on how well each class is told: figures, confusion, curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.evaluation.classification_metrics import ClassificationMetrics, ClassMetrics
from engine.report import charts
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, details, join, paragraph, scroll, table, tag
from engine.report.report_data import ClassCurves, ReportData
from engine.report.sections import Section, at, figure, from_there, legend, sentence

FEW = 20  # classes that a table of confusion takes
ROWS = 30  # classes that a table of figures shows before it folds
WORST = 15
UPRIGHT = 6  # classes from which their names stand upright over the columns
_FALSE_ALARMS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def classes(facts: ReportData) -> Section:
    return Section("classes", "Class by class", "Classes", _figures(facts.figures))


def _figures(found: ClassificationMetrics) -> Markup:
    intro = paragraph(
        "Precision is the share of a class’s answers that are right, recall the share of its "
        "images that are found, F1 their harmonic mean. The interval is where F1 may lie in "
        "other images like these, 95 times in 100."
    )
    rows = found.per_class
    if len(rows) <= ROWS:
        return join([intro, _table("Figures of each class", rows)])
    worst = sorted((row for row in rows if row.support), key=lambda row: row.f1)[:WORST]
    rest = details(f"All {len(rows):,} classes", _table("Figures of each class", rows))
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
    figures = [percent(value) for value in (row.precision, row.recall, row.f1)]
    known = (row.roc_area, row.average_precision)
    areas = ["–" if value is None else f"{value:.4f}" for value in known]
    return (row.name, f"{row.support:,}", *figures, span(row.f1_interval, 1), *areas)


def confusion(facts: ReportData) -> Section:
    found = facts.figures
    few = len(found.per_class) <= FEW
    parts = [_matrix(found) if few else _chart(found)]
    if found.confused_pairs:
        rows = [(pair.given, pair.predicted, f"{pair.count:,}") for pair in found.confused_pairs]
        heads = ("given", "predicted", "images")
        parts.append(table("Most confused pairs", heads, rows, class_="pairs"))
    else:
        parts.append(paragraph("Nothing: every image was named as its label says."))
    return Section("confusion", "What is taken for what", "Confusion", join(parts))


def _matrix(found: ClassificationMetrics) -> Markup:
    names = [row.name for row in found.per_class]
    shares = found.confusion / np.maximum(found.confusion.sum(1, keepdims=True), 1)
    top = [tag("td", "given ↓ predicted →", class_="muted")]
    top += [tag("th", name, scope="col") for name in names]
    rows = [tag("tr", *top)]
    for place, name in enumerate(names):
        cells = [
            tag(
                "td",
                f"{int(number):,}",
                style=f"--share: {shares[place, column]:.3f}",
                class_="right" if place == column else None,
            )
            for column, number in enumerate(found.confusion[place])
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = "Images by given label (down) and predicted label (across)"
    style = "confusion upright" if len(names) >= UPRIGHT else "confusion"
    parts = (tag("caption", caption), tag("thead", rows[0]), tag("tbody", *rows[1:]))
    return scroll(caption, tag("table", *parts, class_=style))


def _chart(found: ClassificationMetrics) -> Markup:
    number = len(found.per_class)
    summary = (
        f"Confusion matrix of {number} classes: {percent(found.accuracy)} of "
        f"{count(found.count, 'image')} on the diagonal, where given and predicted labels agree"
    )
    caption = (
        f"Given labels down, predicted labels across, {number:,} classes in the order of the table "
        "of all classes; the stronger, the larger the share of the row (root scale)."
    )
    step = charts.together(number)
    if step > 1:
        caption += f" A dot is the strongest of {step} by {step} classes."
    chart = charts.heat("heat", summary, found.confusion)
    return tag("div", tag("figure", tag("figcaption", caption), chart), class_="charts")


def curves(facts: ReportData) -> Section | None:
    if not facts.curves:
        return None
    several = len(facts.subject.classes) > 2
    parts = [paragraph(f"{_of_which(facts, several)}. ", _means(facts.figures, several))]
    names = [curve.name for curve in facts.curves]
    key = legend(names) if several else None
    parts.append(
        tag("div", _roc(facts.curves, key), _precision_recall(facts.curves, key), class_="charts")
    )
    return Section("curves", "At every threshold", "Curves", join(parts))


def _of_which(facts: ReportData, several: bool) -> str:
    if not several:
        return f"For {facts.curves[0].name} against the other class"
    known = sum(row.roc_area is not None for row in facts.figures.per_class)
    if len(facts.curves) == known:
        return "For each class against all others"
    return f"For the {len(facts.curves)} classes that are told from all others worst"


def _means(found: ClassificationMetrics, several: bool) -> str:
    known = [row for row in found.per_class if row.roc_area is not None]
    if not several or not known:
        return "A threshold trades what is found for what is found wrongly."
    roc = np.mean([row.roc_area for row in known])
    average = np.mean([row.average_precision for row in known])
    return (
        f"The mean over all classes that have images: ROC area {roc:.4f}, average precision "
        f"{average:.4f}."
    )


def _roc(found: Sequence[ClassCurves], key: Markup | None) -> Markup:
    areas = "; ".join(f"{curve.name} {curve.roc.area:.4f}" for curve in found)
    summary = f"ROC curves: recall over the false alarm rate. Areas: {areas}"
    lines = [(curve.roc.x, curve.roc.y) for curve in found]
    chart = charts.lines("roc", summary, lines, ("false alarms", "recall"), diagonal=True)
    heads = ("class", "area", *[f"at {percent(x, 0)}" for x in _FALSE_ALARMS])
    rows = [(c.name, f"{c.roc.area:.4f}", *at(c.roc.x, c.roc.y, _FALSE_ALARMS)) for c in found]
    numbers = table("Recall at a false alarm rate of at most", heads, rows)
    return figure(chart, _caption("ROC: recall over false alarms", found, "roc"), numbers, key)


def _precision_recall(found: Sequence[ClassCurves], key: Markup | None) -> Markup:
    areas = "; ".join(f"{curve.name} {curve.precision_recall.area:.4f}" for curve in found)
    summary = f"Precision over recall. Average precision: {areas}"
    lines = [(curve.precision_recall.x, curve.precision_recall.y) for curve in found]
    chart = charts.lines("precision", summary, lines, ("recall", "precision"), steps=True)
    heads = ("class", "average", *[f"at {percent(x, 0)}" for x in _RECALLS])
    rows = []
    for curve in found:
        of = curve.precision_recall
        rows.append((curve.name, f"{of.area:.4f}", *from_there(of.x, of.y, _RECALLS)))
    numbers = table("Precision at a recall of at least", heads, rows)
    caption = _caption("Precision over recall", found, "precision_recall")
    return figure(chart, caption, numbers, key)


def _caption(what: str, found: Sequence[ClassCurves], name: str) -> str:
    if len(found) > 1:
        return what
    area = getattr(found[0], name).area
    word = "area" if name == "roc" else "average precision"
    return sentence(what, f"; {word} {area:.4f}")
