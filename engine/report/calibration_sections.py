"""Sections on calibration and on the decision rule's operating point."""

from __future__ import annotations

from collections.abc import Sequence

from engine.core.text import program
from engine.evaluation.calibration import CalibrationBin
from engine.evaluation.decision_rule import format_threshold
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.report import charts
from engine.report.document import Section
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, join, paragraph, table, tag
from engine.report.report_data import ReportData


def calibration(data: ReportData) -> Section:
    measured = data.calibration
    text = (
        "A calibrated model with a confidence of 80 % is right 80 times in 100. The expected "
        "calibration error is the mean distance from that: "
    )
    series = {
        "after temperature scaling": measured.bins_after,
        "before temperature scaling": measured.bins_before,
    }
    if measured.temperature == 1:
        series = {"without temperature scaling": measured.bins_after}
        text += (
            f"{percent(measured.error_after)}. The model has no temperature: training saves one "
            "only where it improves the calibration of validation images that it was not fitted "
            "on, beyond noise."
        )
    else:
        text += (
            f"{percent(measured.error_before)} without temperature scaling, "
            f"{percent(measured.error_after)} with the temperature of {measured.temperature:.3f} "
            "that training fitted and that divides the logits."
        )
    if measured.cross_fitted:
        text += (
            " It was fitted on these images; so that the error is not too optimistic, each half of "
            "them is scaled here with the temperature of the other half."
        )
    chart = charts.curves(
        "reliability",
        "Reliability diagram: accuracy over confidence; expected calibration error "
        f"{percent(measured.error_after)}",
        [_points(bins) for bins in series.values()],
        ("confidence", "accuracy"),
        diagonal=True,
    )
    caption = "Accuracy over confidence; a larger dot stands for more images"
    numbers = join(_bins(f"Confidence {when}", bins) for when, bins in series.items())
    diagram = charts.figure(chart, caption, list(series), numbers)
    body = join([paragraph(text), tag("div", diagram, class_="charts")])
    return Section("calibration", "Calibration", "Calibration", body)


def _points(bins: Sequence[CalibrationBin]) -> list[list[float]]:
    """Returns x, y and the areas of the dots: a dot's area is its bin's share of the images."""
    filled = [each for each in bins if each.images]
    total = sum(each.images for each in filled)
    areas = [8 + 120 * each.images / total for each in filled]
    return [[each.confidence for each in filled], [each.accuracy for each in filled], areas]


def _bins(title: str, bins: Sequence[CalibrationBin]) -> Markup:
    heads = ("confidence", "images", "mean confidence", "accuracy")
    rows = [
        (f"{percent(b.low, 1)} to {percent(b.high, 1)}", f"{b.images:,}",
         percent(b.confidence), percent(b.accuracy))
        for b in bins if b.images
    ]  # fmt: skip
    return table(title, heads, rows)


def decisions(data: ReportData) -> Section:
    parts = []
    if data.operating_point:
        parts += _threshold(data, data.operating_point)
    if data.abstention:
        parts += _abstention(data.abstention)
    if not parts:
        flags = (program("evaluate"), "--positive_class=CLASS", "--min_recall=0.95")
        parts = [
            paragraph(
                "The decision is always the most likely class. For a class that must not be "
                "missed, ",
                join(map(_flag, flags), " "),
                " fits a threshold, and ",
                _flag("--abstain=0.6"),
                " leaves less certain decisions open.",
            )
        ]
    return Section("decisions", "Decisions", "Decisions", join(parts))


def _flag(text: str) -> Markup:
    return tag("code", text, class_="flag")


def _threshold(data: ReportData, point: OperatingPoint) -> list[Markup]:
    name, min_recall = data.rule.positive_class or "", data.rule.min_recall
    fitted = f", fitted for a recall of {percent(min_recall, 1)}" if min_recall is not None else ""
    where = "On these images" + (", before abstaining" if data.abstention else "")
    parts = [
        tag("h3", f"Threshold for {name}"),
        paragraph(
            f"The decision is {name} where its probability is at least "
            f"{format_threshold(point.threshold)}{fitted}."
        ),
        table(where, ("metric", "share", "images"), _costs(point)),
    ]
    if data.decisions and not data.abstention:
        accuracy = f"{percent(data.decisions.accuracy)} of all decisions are right"
        parts.append(paragraph(f"{accuracy} ({span(data.decisions.accuracy_interval, 1)})."))
    return parts


def _costs(point: OperatingPoint) -> Sequence[tuple[str, str, str]]:
    hits, false_alarms, negatives = point.hits, point.false_alarms, point.negatives
    positives, predicted = hits + point.misses, hits + false_alarms
    recall = f"{_share(hits, positives)} ({span(point.recall_interval, 1)})"
    others = f"{false_alarms:,} of {negatives:,} others"
    right = f"{hits:,} right of {count(predicted, 'decision')}"
    return (
        ("recall", recall, f"{hits:,} found of {positives:,}, {point.misses:,} missed"),
        ("false alarms", _share(false_alarms, negatives), others),
        ("precision", _share(hits, predicted), right),
    )


def _share(part: int, whole: int) -> str:
    """A share of nothing is a dash."""
    return percent(part / whole if whole else None)


def _abstention(measured: AbstentionMetrics) -> list[Markup]:
    text = (
        "A decision is uncertain where no class has a probability of "
        f"{percent(measured.level, 1)}: {count(measured.uncertain, 'image')} "
        f"({percent(measured.share_uncertain)}). Of the {count(measured.sure, 'other')}, "
        f"{percent(measured.accuracy if measured.sure else None)} are right "
        f"({span(measured.accuracy_interval, 1)})."
    )
    return [tag("h3", "Abstention"), paragraph(text)]
