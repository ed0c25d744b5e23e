"""How bin/evaluate shows what was measured: as a table, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from engine.core.text import printable
from engine.evaluation.decision_rule import format_threshold

if TYPE_CHECKING:
    from engine.commands.measure import EvaluatedModel
    from engine.evaluation.calibration import CalibrationBin
    from engine.evaluation.classification_metrics import ClassificationMetrics
    from engine.evaluation.intervals import Interval
    from engine.evaluation.operating_point import OperatingPoint


FEW = 30  # classes whose confusion matrix a terminal has room for


def print_json(found: EvaluatedModel) -> None:
    figures, made = found.figures, found.calibrated
    value = {
        "accuracy": figures.accuracy,
        "accuracy_interval": figures.accuracy_interval,
        "loss": figures.loss,
        "count": figures.count,
        "trained_on": found.trained_on,
        "macro_f1": figures.macro_f1,
        "macro_f1_interval": figures.macro_f1_interval,
        "top_k": figures.top_k,
        "classes": list(found.answers.classes),
        "confusion_matrix": figures.confusion.tolist(),
        "most_confused": [dataclasses.asdict(pair) for pair in figures.confused_pairs],
        "per_class": {row.name: _without_name(row) for row in figures.per_class},
        "calibration": {
            "temperature": made.temperature,
            "error_before": made.error_before,
            "error_after": made.error_after,
            "bins_before": _bins(made.bins_before),
            "bins_after": _bins(made.bins_after),
        },
        "rule": dataclasses.asdict(found.rule),
        "decided": _as_dict(found.decided),
        "operating": _as_dict(found.operating),
        "operating_on_validation": _as_dict(found.fitted),
        "abstaining": _as_dict(found.abstaining),
    }
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _without_name(row: Any) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    del values["name"]
    return values


def _bins(bins: tuple[CalibrationBin, ...]) -> list[dict[str, float]]:
    return [row._asdict() for row in bins]


def _as_dict(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def print_table(found: EvaluatedModel) -> None:
    figures = found.figures
    blocks = [
        [*_headline(found), *_decided(found)],
        _classes(figures),
        _confusion(found.answers.classes, figures),
        _pairs(figures),
        _sureness(found),
        _threshold(found),
        _uncertain(found),
    ]
    print("\n\n".join("\n".join(lines) for lines in blocks if lines))


def between(interval: Interval) -> str:
    return f"95%: {interval.low:.1%} to {interval.high:.1%}"


def _headline(found: EvaluatedModel) -> list[str]:
    figures = found.figures
    by = ", by the likeliest class" if found.rule.overrides_argmax else ""
    lone = (
        f", too narrow: classes with one image: {figures.singleton_classes}"
        if figures.singleton_classes
        else ""
    )
    top = "".join(f", top {k} {share:.2%}" for k, share in figures.top_k.items())
    return [
        f"{figures.count} images{by}: accuracy {figures.accuracy:.2%} "
        f"({between(figures.accuracy_interval)}), loss {figures.loss:.4f}",
        f"macro F1 {figures.macro_f1:.2%} ({between(figures.macro_f1_interval)}{lone}){top}",
    ]


def _decided(found: EvaluatedModel) -> list[str]:
    """How right the answers are that are given, where a rule decides."""
    what = found.decided
    if what is None:
        return []
    if not what.sure:
        return ["by the saved rule: no answer, all are uncertain"]
    of = "" if found.abstaining is None else f" of the {what.sure} images that are not uncertain"
    return [
        f"by the saved rule: accuracy {what.accuracy:.2%} ({between(what.accuracy_interval)}){of}"
    ]


def _classes(figures: ClassificationMetrics) -> list[str]:
    names = [printable(row.name) for row in figures.per_class]
    width = max(map(len, (*names, "class")))
    lines = [f"{'class':{width}}  precision  recall      f1  support  roc area"]
    for name, row in zip(names, figures.per_class, strict=True):
        shares = f"{row.precision:9.2%}  {row.recall:6.2%}  {row.f1:6.2%}"
        area = "-" if row.roc_area is None else f"{row.roc_area:.4f}"
        lines.append(f"{name:{width}}  {shares}  {row.support:7}  {area:>8}")
    return lines


def _confusion(classes: tuple[str, ...], figures: ClassificationMetrics) -> list[str]:
    if len(classes) > FEW:
        return [f"confusion matrix of {len(classes)} classes: in --format=json"]
    names = [printable(name) for name in classes]
    width = max(map(len, (*names, "class")))
    digits = len(str(figures.confusion.max()))
    lines = ["confusion matrix: given down, predicted across"]
    for name, row in zip(names, figures.confusion, strict=True):
        lines.append(f"{name:{width}}  " + "  ".join(f"{number:{digits}}" for number in row))
    return lines


def _pairs(figures: ClassificationMetrics) -> list[str]:
    """Where there are so many classes that the matrix does not show them at a glance."""
    if not figures.top_k or not figures.confused_pairs:
        return []
    lines = [
        f"{pair.count:6}  {printable(pair.given)} taken for {printable(pair.predicted)}"
        for pair in figures.confused_pairs
    ]
    return ["most often confused", *lines]


def _sureness(found: EvaluatedModel) -> list[str]:
    made = found.calibrated
    before = f"calibration error {made.error_before:.2%}"
    if made.temperature == 1:
        return [f"{before}; no temperature was fitted"]
    return [f"{before}; by the temperature {made.temperature:.3f}: {made.error_after:.2%}"]


def _threshold(found: EvaluatedModel) -> list[str]:
    rule, here = found.rule, found.operating
    if rule.positive_class is None or here is None:
        return []
    aim = f", which is to find {rule.min_recall:.1%} of it" if rule.min_recall else ""
    before = "" if rule.abstain is None else ", before any is left uncertain"
    lines = [
        f"{printable(rule.positive_class)} is the answer from a probability of "
        f"{format_threshold(here.threshold)}{aim}",
        f"  on these images{before}: {_found(here)}",
    ]
    if found.fitted:
        lines.append(f"  on the validation part, where it was fitted: {_found(found.fitted)}")
    return lines


def _found(what: OperatingPoint) -> str:
    positives = what.found + what.missed
    alarms = (
        f"false alarms: {what.false_alarms} of {what.negatives} others "
        f"({what.false_alarm_rate:.2%})"
    )
    if not positives:
        return f"none is of the class; {alarms}"
    return (
        f"found {what.found} of {positives}, {what.recall:.2%} ({between(what.recall_interval)}); "
        f"{alarms}; precision {what.precision:.2%}"
    )


def _uncertain(found: EvaluatedModel) -> list[str]:
    what = found.abstaining
    if what is None:
        return []
    return [
        f"uncertain where no class has {what.level:.1%}: {what.uncertain} images "
        f"({what.share_uncertain:.2%})"
    ]
