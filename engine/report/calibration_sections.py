"""Sections on calibration and on the decision rule's operating point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.evaluation.calibration import CalibrationBin
from engine.evaluation.decision_rule import format_threshold
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import Reliability
from engine.report import charts
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, join, paragraph, table, tag
from engine.report.report_data import ReportData
from engine.report.sections import Section, figure, heading, legend


def calibration(data: ReportData) -> Section:
    measured = data.reliability
    text = (
        "A calibrated model with a confidence of 80 % is right 80 times in 100. The expected "
        "calibration error is the mean distance from that: "
    )
    if measured.temperature == 1:
        text += (
            f"{percent(measured.error_after)}. No temperature was fitted to reduce it; bin/train "
            "fits one at the end of a run."
        )
    else:
        text += (
            f"{percent(measured.error_before)} without temperature scaling, "
            f"{percent(measured.error_after)} with the temperature of {measured.temperature:.3f} "
            "that bin/train fitted and that divides the logits."
        )
    if measured.cross_fitted:
        text += (
            " It was fitted on these images; so that the error is not too optimistic, each half of "
            "them is scaled here with the temperature of the other half."
        )
    body = join([paragraph(text), tag("div", _diagram(measured), class_="charts")])
    return Section("calibration", "Calibration", "Calibration", body)


def _diagram(measured: Reliability) -> Markup:
    summary = "Reliability diagram: accuracy over confidence. Expected calibration error "
    if measured.temperature == 1:
        summary += percent(measured.error_before)
        numbers, key = _bins("By confidence", measured.bins_after), None
    else:
        summary += (
            f"{percent(measured.error_before)} before and {percent(measured.error_after)} after "
            f"scaling with the temperature of {measured.temperature:.3f}"
        )
        numbers = join(
            [
                _bins("Before temperature scaling", measured.bins_before),
                _bins("After temperature scaling", measured.bins_after),
            ]
        )
        key = legend(["after temperature scaling", "before"])
    before = () if measured.temperature == 1 else measured.bins_before
    chart = charts.reliability("reliability", summary, before, measured.bins_after)
    caption = "Accuracy over confidence; a larger dot stands for more images"
    return figure(chart, caption, numbers, key)


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
        flags = ("bin/evaluate", "--positive_class=CLASS", "--min_recall=0.95")
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
        heading(f"Threshold for {name}"),
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


def _costs(point: OperatingPoint) -> Iterator[tuple[str, str, str]]:
    """A share with a denominator of 0 is a dash."""
    positives, predicted = point.found + point.missed, point.found + point.false_alarms
    recall = f"{percent(point.recall)} ({span(point.recall_interval, 1)})"
    yield (
        "recall",
        recall if positives else percent(None),
        f"{point.found:,} found of {positives:,}, {point.missed:,} missed",
    )
    yield (
        "false alarms",
        percent(point.false_alarm_rate if point.negatives else None),
        f"{point.false_alarms:,} of {point.negatives:,} others",
    )
    yield (
        "precision",
        percent(point.precision if predicted else None),
        f"{point.found:,} right of {count(predicted, 'decision')}",
    )


def _abstention(measured: AbstentionMetrics) -> list[Markup]:
    text = (
        "A decision is uncertain where no class has a probability of "
        f"{percent(measured.level, 1)}: {count(measured.uncertain, 'image')} "
        f"({percent(measured.share_uncertain)}). "
    )
    if measured.sure:
        text += (
            f"Of the {count(measured.sure, 'other')}, {percent(measured.accuracy)} are right "
            f"({span(measured.accuracy_interval, 1)})."
        )
    else:
        text += "All decisions are uncertain."
    return [heading("Abstention"), paragraph(text)]
