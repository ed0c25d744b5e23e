"""Collects the data of a report from a model's predictions and its run's files."""

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
    classification_metrics,
    precision_recall_curve,
    roc_curve,
)
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.reliability import measure_reliability
from engine.models.classifier import Classifier
from engine.report import images, training_log
from engine.report.images import ImageSource
from engine.report.report_data import (
    ClassCurves,
    LabelCheckSummary,
    Mistake,
    ReportData,
    ReportSubject,
    SuspectLabel,
)
from engine.runs.directory import RunDirectory

MAX_IMAGES = 24  # shown of mistakes and of label errors
MAX_CURVES = 5  # classes whose curves are drawn


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """A model and its predictions for the images that the report is about.

    batches: returns the batches of these images with the given numbers, in their order, as
      `DataLoader.split_batches` does.
    fitted_on_these: whether the rule's temperature was fitted on these predictions.
    training: the training data, whose labels are checked; None if not at hand.
    """

    run: RunDirectory
    recipe: Recipe
    classifier: Classifier
    rule: DecisionRule
    predictions: Predictions
    batches: Callable[[list[int]], Iterable[Batch]]
    fitted_on_these: bool
    training: DataLoader | None = None


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """What the program knows and no file says; the fields are those of `ReportSubject`."""

    split: str
    data: str
    own: bool
    when: str
    command: str
    price_per_hour: float | None = None
    views: str = ""
    trained_on: int = 0


def collect_report(
    model: MeasuredModel, context: ReportContext, check_stop: Callable[[], None] = lambda: None
) -> ReportData:
    """Collects all data of a report.

    Args:
      model: the model and its predictions.
      context: what the program knows of them.
      check_stop: called now and then; it raises to stop the work.

    Raises:
      UserError: an image can no longer be read.
    """
    predictions, rule = model.predictions, model.rule
    probabilities = decision_rule.probabilities(rule, predictions.logits)
    metrics = classification_metrics(predictions, rule)
    check_stop()
    return ReportData(
        subject=_subject(model, context),
        rule=rule,
        metrics=metrics,
        curves=_curves(predictions, rule, metrics, probabilities),
        reliability=measure_reliability(predictions, rule, model.fitted_on_these),
        operating_point=operating_point.operating_point_of_rule(predictions, rule),
        decisions=operating_point.decisions_of_rule(predictions, rule),
        mistakes=_mistakes(model, probabilities, check_stop),
        labels=_check_labels(model, model.training, check_stop) if model.training else None,
        training=training_log.read(model.run),
        price_per_hour=context.price_per_hour,
    )


def _subject(model: MeasuredModel, context: ReportContext) -> ReportSubject:
    values = dataclasses.asdict(context)
    del values["price_per_hour"]
    return ReportSubject(
        run=str(model.run.path),
        classes=model.predictions.classes,
        backbone=model.recipe.backbone,
        image_size=model.recipe.image_size,
        recipe=to_json(model.recipe),
        **values,
    )


def _curves(
    predictions: Predictions,
    rule: DecisionRule,
    metrics: ClassificationMetrics,
    probabilities: np.ndarray,
) -> tuple[ClassCurves, ...]:
    """Of two classes the positive or second one; of more those with the smallest areas."""
    areas = {row.name: row.roc_area for row in metrics.per_class if row.roc_area is not None}
    if len(predictions.classes) == 2:
        positive = rule.positive_class or predictions.classes[1]
        names = [name for name in areas if name == positive]
    else:
        names = sorted(areas, key=areas.__getitem__)[:MAX_CURVES]
    return tuple(
        ClassCurves(
            name, *(curve(probabilities, predictions.labels, predictions.classes.index(name))
                    for curve in (roc_curve, precision_recall_curve))
        )
        for name in names
    )  # fmt: skip


def _mistakes(
    model: MeasuredModel, probabilities: np.ndarray, check_stop: Callable[[], None]
) -> tuple[Mistake, ...]:
    """Returns all mistakes, the most confident first; the first MAX_IMAGES with images."""
    predictions = model.predictions
    predicted = predictions.logits.argmax(-1)
    confidence = probabilities[np.arange(len(predictions)), predicted]
    wrong = np.flatnonzero(predicted != predictions.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    source = ImageSource(model.batches, model.recipe.batch_size, check_stop)
    classes = {int(n): int(predicted[n]) for n in wrong[:MAX_IMAGES]}
    jpegs = images.explain_images(model.classifier, source, classes)
    return tuple(
        Mistake(
            predictions.name(n),
            predictions.classes[predictions.labels[n]],
            predictions.classes[predicted[n]],
            float(confidence[n]),
            *jpegs.get(n, ()),
        )
        for n in wrong.tolist()
    )


def _check_labels(
    model: MeasuredModel, loader: DataLoader, check_stop: Callable[[], None]
) -> LabelCheckSummary:
    from engine.evaluation import label_errors

    check = label_errors.check_labels(model.recipe, loader, model.classifier, check_stop)
    issues = check.issues
    rows = {int(check.examples[row]): row for row in issues.order if issues.margin[row] < 0}
    shown = set(list(rows)[:MAX_IMAGES])
    batches = functools.partial(loader.split_batches, "train")
    source = ImageSource(batches, model.recipe.batch_size, check_stop)
    suspects = {
        number: SuspectLabel(
            loader.example_name(number),
            loader.classes[label],
            loader.classes[int(issues.suggested[rows[number]])],
            bool(issues.is_issue[rows[number]]),
            images.jpeg(image) if number in shown else b"",
        )
        for number, image, label in images.read_images(source, rows)
    }
    return LabelCheckSummary(
        examined=len(check.examples),
        accuracy=check.accuracy,
        features_of=check.feature_network,
        suspects=tuple(suspects[number] for number in rows),
        note=check.note,
    )
