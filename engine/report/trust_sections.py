"""Sections on how far an answer may be trusted: calibration, and what the rule decides."""

from __future__ import annotations

from engine.report import charts
from engine.report.facts import Facts
from engine.report.markup import Markup, join, paragraph, table, tag
from engine.report.operating import Abstaining, Operating
from engine.report.sections import Section, figure, heading, legend
from engine.report.words import count, percent, span


def calibration(facts: Facts) -> Section:
    found = facts.calibrated
    fitted = found.temperature != 1
    before, after = percent(found.error_before), percent(found.error_after)
    if fitted:
        text = (
            f"A calibrated model that says 80 % is right 80 times in 100. The expected calibration "
            f"error is the mean distance from that: {before} as the network answers, {after} with "
            f"the temperature that bin/train fitted, {found.temperature:.3f}, by which logits are "
            "divided."
        )
    else:
        text = (
            f"A calibrated model that says 80 % is right 80 times in 100. The expected calibration "
            f"error is the mean distance from that: {before}. This model has no temperature that "
            "would mend it; a run that bin/train makes today fits one."
        )
    body = join([paragraph(text), tag("div", _reliability(facts, fitted), class_="charts")])
    return Section("calibration", "As sure as it is right?", "Calibration", body)


def _reliability(facts: Facts, fitted: bool) -> Markup:
    found = facts.calibrated
    summary = (
        "Reliability diagram: accuracy over confidence. Expected calibration error "
        f"{percent(found.error_before)} before and {percent(found.error_after)} after the "
        f"temperature of {found.temperature:.3f}"
    )
    shown = found.bins_before if fitted else ()
    chart = charts.reliability("reliability", summary, shown, found.bins_after)
    heads = ("confidence", "pictures", "mean confidence", "accuracy")
    numbers = join(
        table(
            f"{title} the temperature",
            heads,
            [
                (f"{percent(b.low, 1)} to {percent(b.high, 1)}", f"{b.pictures:,}",
                 percent(b.confidence), percent(b.accuracy))
                for b in bins if b.pictures
            ],
        )
        for title, bins in (("Before", found.bins_before), ("With", found.bins_after))
    )  # fmt: skip
    caption = "How often the answer was right, by how sure it was; larger dots are more pictures"
    key = legend(["with the temperature", "before"]) if fitted else None
    return figure(chart, caption, numbers, key)


def decisions(facts: Facts) -> Section:
    parts = []
    if facts.operating:
        parts += _operating(facts, facts.operating)
    if facts.abstaining:
        parts += _abstaining(facts.abstaining)
    if not parts:
        parts = [
            paragraph(
                "The likeliest class is the answer, always. For a class that must not be missed, ",
                tag("code", "bin/evaluate --positive_class=CLASS --min_recall=0.95"),
                " fits a threshold, and ",
                tag("code", "--abstain=0.6"),
                " leaves answers open that are less sure.",
            )
        ]
    return Section("decisions", "What is decided", "Decisions", join(parts))


def _operating(facts: Facts, found: Operating) -> list[Markup]:
    name = facts.rule.positive_class or ""
    positives = found.found + found.missed
    wish = facts.rule.min_recall
    made_for = f", made to find {percent(wish, 1)} of them" if wish is not None else ""
    rows = [
        ("recall", f"{percent(found.recall)} ({span(found.recall_interval, 1)})",
         f"{found.found:,} found of {positives:,}, {found.missed:,} missed"),
        ("false alarms", percent(found.false_alarm_rate),
         f"{found.false_alarms:,} of {found.negatives:,} others"),
        ("precision", percent(found.precision), f"{found.found:,} right of "
         f"{found.found + found.false_alarms:,} answers"),
    ]  # fmt: skip
    return [
        heading(f"The threshold for {name}"),
        paragraph(
            f"{name} is the answer where its probability is {found.threshold:.4f} or more"
            f"{made_for}."
        ),
        table("On these pictures", ("figure", "share", "pictures"), rows),
    ]


def _abstaining(found: Abstaining) -> list[Markup]:
    return [
        heading("Abstaining"),
        paragraph(
            "An answer is uncertain where no class has a probability of "
            f"{percent(found.level, 1)}: {count(found.uncertain, 'picture')} "
            f"({percent(found.share_uncertain)}). Of the "
            f"{found.sure:,} others {percent(found.accuracy)} are right "
            f"({span(found.accuracy_interval, 1)})."
        ),
    ]
