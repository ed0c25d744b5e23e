"""Sections on how far an answer may be trusted: calibration, and what the rule decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.evaluation.calibration import CalibrationBin
from engine.evaluation.decision_rule import format_threshold
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import Reliability as Calibrated
from engine.report import charts
from engine.report.formatting import count, percent, span
from engine.report.markup import Markup, join, paragraph, table, tag
from engine.report.report_data import ReportData
from engine.report.sections import Section, figure, heading, legend


def calibration(facts: ReportData) -> Section:
    found = facts.calibrated
    before, after = percent(found.error_before), percent(found.error_after)
    text = (
        "A calibrated model that says 80 % is right 80 times in 100. The expected calibration "
        f"error is the mean distance from that: {before}"
    )
    if found.temperature == 1:
        text += ". No temperature was fitted that would mend it; bin/train fits one at its end."
    else:
        text += (
            f" as the network answers, {after} with the temperature that bin/train fitted, "
            f"{found.temperature:.3f}, by which logits are divided."
        )
    if found.cross_fitted:
        text += (
            " It was fitted on these very images; so that this does not flatter it, each half of "
            "them is read here by the temperature of the other half."
        )
    body = join([paragraph(text), tag("div", _reliability(found), class_="charts")])
    return Section("calibration", "As sure as it is right?", "Calibration", body)


def _reliability(found: Calibrated) -> Markup:
    fitted = found.temperature != 1
    summary = "Reliability diagram: accuracy over confidence. Expected calibration error "
    if fitted:
        summary += (
            f"{percent(found.error_before)} before and {percent(found.error_after)} after the "
            f"temperature of {found.temperature:.3f}"
        )
        numbers = join(
            [
                _bins("Before the temperature", found.bins_before),
                _bins("With the temperature", found.bins_after),
            ]
        )
        key = legend(["with the temperature", "before"])
    else:
        summary += percent(found.error_before)
        numbers, key = _bins("By confidence", found.bins_after), None
    shown = found.bins_before if fitted else ()
    chart = charts.reliability("reliability", summary, shown, found.bins_after)
    caption = "How often the answer was right, by how sure it was; larger dots are more images"
    return figure(chart, caption, numbers, key)


def _bins(title: str, bins: Sequence[CalibrationBin]) -> Markup:
    heads = ("confidence", "images", "mean confidence", "accuracy")
    rows = [
        (f"{percent(b.low, 1)} to {percent(b.high, 1)}", f"{b.images:,}",
         percent(b.confidence), percent(b.accuracy))
        for b in bins if b.images
    ]  # fmt: skip
    return table(title, heads, rows)


def decisions(facts: ReportData) -> Section:
    parts = []
    if facts.operating:
        parts += _operating(facts, facts.operating)
    if facts.abstaining:
        parts += _abstaining(facts.abstaining)
    if not parts:
        parts = [
            paragraph(
                "The likeliest class is the answer, always. For a class that must not be missed, ",
                join(
                    map(_flag, ("bin/evaluate", "--positive_class=CLASS", "--min_recall=0.95")), " "
                ),
                " fits a threshold, and ",
                _flag("--abstain=0.6"),
                " leaves answers open that are less sure.",
            )
        ]
    return Section("decisions", "What is decided", "Decisions", join(parts))


def _flag(text: str) -> Markup:
    return tag("code", text, class_="flag")


def _operating(facts: ReportData, found: OperatingPoint) -> list[Markup]:
    name, wish = facts.rule.positive_class or "", facts.rule.min_recall
    made_for = f", made to find {percent(wish, 1)} of them" if wish is not None else ""
    where = "On these images"
    if facts.abstaining:
        where += ", before any is left uncertain"
    return [
        heading(f"The threshold for {name}"),
        paragraph(
            f"{name} is the answer where its probability is "
            f"{format_threshold(found.threshold)} or more{made_for}."
        ),
        table(where, ("figure", "share", "images"), _costs(found)),
        *([] if facts.abstaining or not facts.decided else [_right(facts.decided)]),
    ]


def _right(found: AbstentionMetrics) -> Markup:
    return paragraph(
        f"Of all answers, by this threshold, {percent(found.accuracy)} are right "
        f"({span(found.accuracy_interval, 1)})."
    )


def _costs(found: OperatingPoint) -> Iterator[tuple[str, str, str]]:
    """A dash is a share of nothing."""
    positives, answers = found.found + found.missed, found.found + found.false_alarms
    recall = f"{percent(found.recall)} ({span(found.recall_interval, 1)})"
    yield (
        "recall",
        recall if positives else percent(None),
        f"{found.found:,} found of {positives:,}, {found.missed:,} missed",
    )
    yield (
        "false alarms",
        percent(found.false_alarm_rate if found.negatives else None),
        f"{found.false_alarms:,} of {found.negatives:,} others",
    )
    yield (
        "precision",
        percent(found.precision if answers else None),
        f"{found.found:,} right of {count(answers, 'answer')}",
    )


def _abstaining(found: AbstentionMetrics) -> list[Markup]:
    if not found.sure:
        right = "No image has a sure answer."
    else:
        right = (
            f"Of the {count(found.sure, 'other')} {percent(found.accuracy)} are right "
            f"({span(found.accuracy_interval, 1)})."
        )
    return [
        heading("Abstaining"),
        paragraph(
            "An answer is uncertain where no class has a probability of "
            f"{percent(found.level, 1)}: {count(found.uncertain, 'image')} "
            f"({percent(found.share_uncertain)}). {right}"
        ),
    ]
