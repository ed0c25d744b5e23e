"""Evaluations and comparisons of runs as text: tables and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.core.text import json_text, printable
from engine.evaluation.decision_rule import format_threshold

if TYPE_CHECKING:
    from engine.commands.compare import ComparedRun
    from engine.commands.evaluate_options import EvaluationResult
    from engine.evaluation.classification_metrics import ClassificationMetrics
    from engine.evaluation.intervals import Interval
    from engine.evaluation.mcnemar import ModelComparison
    from engine.evaluation.operating_point import OperatingPoint


MAX_CONFUSION_CLASSES = 30  # whose confusion matrix a terminal has room for


def evaluation_json(result: EvaluationResult) -> str:
    values = result.metrics_as_json()
    values["operating_on_validation"] = result.fitted
    return _as_json({"split": result.split, "trained_on": result.trained_on, **values})


def comparison_json(runs: Sequence[ComparedRun]) -> str:
    names = (
        *("count", "accuracy", "accuracy_interval"),
        *("macro_f1", "macro_f1_interval", "loss"),
    )
    return _as_json(
        [
            {
                "run_dir": str(run.directory.path),
                "split": run.evaluation.split,
                **{name: getattr(run.evaluation.metrics, name) for name in names},
                "calibration_error": run.evaluation.calibration.error_after,
                "against_first": run.by_class,
                "against_first_by_rule": run.by_rule,
            }
            for run in runs
        ]
    )


def _as_json(values: Any) -> str:
    return json_text(values, indent=2, default=vars)  # of dataclasses


def evaluation_table(result: EvaluationResult) -> str:
    metrics = result.metrics
    blocks = [
        [*_headline(result), *_rule_accuracy(result)],
        _per_class(metrics),
        _confusion(result.predictions.classes, metrics),
        _most_confused(metrics),
        _calibration(result),
        _threshold(result),
        _abstention(result),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _interval(interval: Interval) -> str:
    return f"95%: {interval.low:.1%} to {interval.high:.1%}"


def _headline(result: EvaluationResult) -> list[str]:
    metrics = result.metrics
    of = "" if result.split == "all" else f" of the {result.split} split"
    by = ", by the likeliest class" if result.rule.overrides_argmax else ""
    lone = (
        f", too narrow: classes with one image: {metrics.singleton_classes}"
        if metrics.singleton_classes
        else ""
    )
    top = "".join(f", top {k} {share:.2%}" for k, share in metrics.top_k.items())
    return [
        f"{metrics.count} images{of}{by}: accuracy {metrics.accuracy:.2%} "
        f"({_interval(metrics.accuracy_interval)}), loss {metrics.loss:.4f}",
        f"macro F1 {metrics.macro_f1:.2%} ({_interval(metrics.macro_f1_interval)}{lone}){top}",
    ]


def _rule_accuracy(result: EvaluationResult) -> list[str]:
    """The accuracy of the predictions by a rule that is more than a temperature."""
    metrics = result.decisions
    if metrics is None:
        return []
    if not metrics.sure:
        return ["by the saved rule: no prediction, all are uncertain"]
    of = f" of the {metrics.sure} images that are not uncertain" if result.abstention else ""
    interval = _interval(metrics.accuracy_interval)
    return [f"by the saved rule: accuracy {metrics.accuracy:.2%} ({interval}){of}"]


def _per_class(metrics: ClassificationMetrics) -> list[str]:
    names = [printable(row.name) for row in metrics.per_class]
    width = max(map(len, (*names, "class")))
    lines = [f"{'class':{width}}  precision  recall      f1  support  roc area"]
    for name, row in zip(names, metrics.per_class, strict=True):
        shares = f"{row.precision:9.2%}  {row.recall:6.2%}  {row.f1:6.2%}"
        area = "-" if row.roc_area is None else f"{row.roc_area:.4f}"
        lines.append(f"{name:{width}}  {shares}  {row.support:7}  {area:>8}")
    return lines


def _confusion(classes: tuple[str, ...], metrics: ClassificationMetrics) -> list[str]:
    if len(classes) > MAX_CONFUSION_CLASSES:
        return [f"confusion matrix of {len(classes)} classes: in --format=json"]
    names = [printable(name) for name in classes]
    width = max(map(len, (*names, "class")))
    digits = len(str(metrics.confusion.max()))
    lines = ["confusion matrix: label down, prediction across"]
    for name, row in zip(names, metrics.confusion, strict=True):
        lines.append(f"{name:{width}}  " + "  ".join(f"{number:{digits}}" for number in row))
    return lines


def _most_confused(metrics: ClassificationMetrics) -> list[str]:
    """Only where there are so many classes that the matrix does not show them at a glance."""
    if not metrics.top_k or not metrics.confused_pairs:
        return []
    lines = [
        f"{pair.count:6}  {printable(pair.given)} predicted as {printable(pair.predicted)}"
        for pair in metrics.confused_pairs
    ]
    return ["most often confused", *lines]


def _calibration(result: EvaluationResult) -> list[str]:
    calibration = result.calibration
    before = f"calibration error {calibration.error_before:.2%}"
    if calibration.temperature == 1:
        return [f"{before}; the model has no temperature"]
    after = f"with temperature {calibration.temperature:.3f}: {calibration.error_after:.2%}"
    return [f"{before}; {after}"]


def _threshold(result: EvaluationResult) -> list[str]:
    rule, here = result.rule, result.operating_point
    if rule.positive_class is None or here is None:
        return []
    aim = f", which aims at a recall of {rule.min_recall:.1%}" if rule.min_recall else ""
    before = "" if rule.abstain is None else ", before abstaining"
    lines = [
        f"{printable(rule.positive_class)} is predicted from a probability of "
        f"{format_threshold(here.threshold)}{aim}",
        f"  on these images{before}: {_operating_point(here)}",
    ]
    if result.fitted:
        lines.append(
            f"  on the validation split it was fitted on: {_operating_point(result.fitted)}"
        )
    return lines


def _operating_point(point: OperatingPoint) -> str:
    positives = point.hits + point.misses
    alarms = (
        f"false alarms: {point.false_alarms} of {point.negatives} others "
        f"({point.false_alarm_rate:.2%})"
    )
    if not positives:
        return f"none is of the class; {alarms}"
    return (
        f"found {point.hits} of {positives}, {point.recall:.2%} "
        f"({_interval(point.recall_interval)}); {alarms}; precision {point.precision:.2%}"
    )


def _abstention(result: EvaluationResult) -> list[str]:
    metrics = result.abstention
    if metrics is None:
        return []
    return [
        f"uncertain where no class reaches {metrics.level:.1%}: {metrics.uncertain} images "
        f"({metrics.share_uncertain:.2%})"
    ]


def comparison_table(runs: Sequence[ComparedRun]) -> str:
    return "\n".join(_comparison_lines(runs))


def _comparison_lines(runs: Sequence[ComparedRun]) -> Iterator[str]:
    names = [printable(str(run.directory.path)) for run in runs]
    width = max(map(len, (*names, "run")))
    intervals = [f"({_interval(run.evaluation.metrics.accuracy_interval)})" for run in runs]
    spread = max(map(len, intervals))
    yield (
        f"{'run':{width}}  {'split':10}  {'images':>8}  accuracy  {'':{spread}}  macro f1    loss  "
        "calibration error"
    )
    for name, interval, run in zip(names, intervals, runs, strict=True):
        metrics, error = run.evaluation.metrics, run.evaluation.calibration.error_after
        yield (
            f"{name:{width}}  {run.evaluation.split:10}  {metrics.count:8}  "
            f"{metrics.accuracy:8.2%}  {interval:{spread}}  {metrics.macro_f1:8.2%}  "
            f"{metrics.loss:.4f}  {error:.2%}"
        )
    for name, run in zip(names[1:], runs[1:], strict=True):
        yield f"\n{name} against {names[0]}"
        for how, comparison in (("likeliest class", run.by_class), ("saved rules", run.by_rule)):
            if comparison:
                yield f"  by the {how}: {_mcnemar(comparison)}"


def _mcnemar(comparison: ModelComparison) -> str:
    return (
        f"of {comparison.common} images that both have, {comparison.right_b} right against "
        f"{comparison.right_a}; {comparison.only_b} only by this one, {comparison.only_a} only by "
        f"the other; p = {comparison.p_value:.2g} (McNemar's exact test)"
    )
