"""From a model's answers and its run's files to the facts of a report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import numpy as np

from engine.core.dataset import Batch, DataLoader
from engine.core.recipe import Recipe, to_json
from engine.evaluation import decision_rule, operating_point
from engine.evaluation.classification_metrics import (
    ClassificationMetrics,
    precision_recall_curve,
    roc_curve,
)
from engine.evaluation.classification_metrics import classification_metrics as figures
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.reliability import measure_reliability
from engine.models.classifier import Classifier
from engine.report import images, training_log
from engine.report.images import Source
from engine.report.report_data import (
    ClassCurves,
    LabelCheckSummary,
    Mistake,
    ReportData,
    ReportSubject,
    SuspectLabel,
)
from engine.runs.directory import RunDirectory

SHOWN = 24  # images on a wall
CURVES = 5  # classes whose curves are drawn


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """A model, and what it says of the images that the report is about.

    once: gives the batches with the given numbers of these images, in their order, as
      `DataLoader.split_batches` does.
    fitted_on_these: whether the rule's temperature comes from these very answers.
    training: the data that the model learnt from, where they are at hand; their labels are checked.
    """

    run: RunDirectory
    recipe: Recipe
    classifier: Classifier
    rule: DecisionRule
    answers: Predictions
    once: Callable[[list[int]], Iterable[Batch]]
    fitted_on_these: bool
    training: DataLoader | None = None


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """What the program knows and no file tells.

    data: where the images are, in words. views, trained_on: see `Subject`.
    """

    part: str
    data: str
    own: bool
    when: str
    command: str
    price_per_hour: float | None = None
    views: str = ""
    trained_on: int = 0


def collect_report(
    measured: MeasuredModel, told: ReportContext, between: Callable[[], None] = lambda: None
) -> ReportData:
    """Everything a report says. between: called now and then; what it raises ends the work.

    Raises:
      UserError: an image can't be read any more.
    """
    answers, rule, training = measured.answers, measured.rule, measured.training
    chances = decision_rule.probabilities(rule, answers.logits)
    found = figures(answers, rule)
    between()
    return ReportData(
        subject=_subject(measured, told),
        rule=rule,
        figures=found,
        curves=_curves(answers, rule, found, chances),
        calibrated=measure_reliability(answers, rule, measured.fitted_on_these),
        operating=operating_point.operating_point_of_rule(answers, rule),
        decided=operating_point.decisions_of_rule(answers, rule),
        mistakes=_mistakes(measured, chances, between),
        labels=_labels(measured, training, between) if training else None,
        course=training_log.read(measured.run),
        price_per_hour=told.price_per_hour,
    )


def _subject(measured: MeasuredModel, told: ReportContext) -> ReportSubject:
    recipe = measured.recipe
    return ReportSubject(
        run=str(measured.run.path),
        part=told.part,
        data=told.data,
        own=told.own,
        classes=measured.answers.classes,
        backbone=recipe.backbone,
        image_size=recipe.image_size,
        when=told.when,
        command=told.command,
        recipe=to_json(recipe),
        views=told.views,
        trained_on=told.trained_on,
    )


def _curves(
    answers: Predictions, rule: DecisionRule, found: ClassificationMetrics, chances: np.ndarray
) -> tuple[ClassCurves, ...]:
    """Of two classes the positive one, or the second; of more those with the smallest areas."""
    names = [row.name for row in found.per_class if row.roc_area is not None]
    if len(answers.classes) == 2:
        wanted = rule.positive_class or answers.classes[1]
        names = [name for name in names if name == wanted]
    else:
        areas = {row.name: row.roc_area or 0.0 for row in found.per_class}
        names = sorted(names, key=lambda name: areas[name])[:CURVES]
    places = {name: answers.classes.index(name) for name in names}
    return tuple(
        ClassCurves(
            name,
            roc_curve(chances, answers.labels, label),
            precision_recall_curve(chances, answers.labels, label),
        )
        for name, label in places.items()
    )


def _mistakes(
    measured: MeasuredModel, chances: np.ndarray, between: Callable[[], None]
) -> tuple[Mistake, ...]:
    """All of them, the surest first; the first SHOWN with images."""
    answers = measured.answers
    predicted = answers.logits.argmax(-1)
    sureness = chances[np.arange(len(answers)), predicted]
    wrong = np.flatnonzero(predicted != answers.labels)
    wrong = wrong[np.argsort(-sureness[wrong], kind="stable")]
    shown = {int(n): int(predicted[n]) for n in wrong[:SHOWN]}
    source = Source(measured.once, measured.recipe.batch_size, between)
    walls = images.explained(measured.classifier, source, shown)
    return tuple(
        Mistake(
            answers.name(n),
            answers.classes[answers.labels[n]],
            answers.classes[predicted[n]],
            float(sureness[n]),
            *walls.get(n, ()),
        )
        for n in wrong.tolist()
    )


def _labels(
    measured: MeasuredModel, loader: DataLoader, between: Callable[[], None]
) -> LabelCheckSummary:
    """Of the training part, whose images the feed gives."""
    from engine.evaluation import label_errors

    checked = label_errors.check_labels(measured.recipe, loader, measured.classifier, between)
    issues = checked.issues
    rows = [int(row) for row in issues.order if issues.margin[row] < 0]
    row_of = {int(checked.examples[row]): row for row in rows}
    order = list(row_of)
    shown, size = set(order[:SHOWN]), measured.recipe.batch_size
    source = Source(functools.partial(loader.split_batches, "train"), size, between)
    suspects = {
        number: SuspectLabel(
            loader.example_name(number),
            loader.classes[label],
            loader.classes[int(issues.suggested[row_of[number]])],
            bool(issues.is_issue[row_of[number]]),
            images.jpeg(image) if number in shown else b"",
        )
        for number, image, label in images.take(source, order)
    }
    return LabelCheckSummary(
        examined=len(checked.examples),
        accuracy=checked.accuracy,
        features_of=checked.feature_network,
        suspects=tuple(suspects[number] for number in order),
        note=checked.note,
    )
