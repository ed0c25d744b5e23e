"""Collects the data of a report from a model's predictions and its run's files."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from engine.core.dataset import Batch, DataLoader
from engine.core.recipe import Recipe
from engine.evaluation import decision_rule
from engine.evaluation.classification_metrics import precision_recall_curve, roc_curve
from engine.evaluation.evaluate import Predictions
from engine.evaluation.model_metrics import ModelMetrics
from engine.frozen import precision
from engine.frozen.phase_plan import PlanFile
from engine.frozen.precision import ComputeMode
from engine.models.classifier import Classifier
from engine.report import images, training_log
from engine.report.images import ImageSource
from engine.report.report_data import (
    ClassCurves,
    LabelCheckSummary,
    Mistake,
    ReportContext,
    ReportData,
    SuspectLabel,
)
from engine.runs.directory import RunDirectory

MAX_IMAGES = 24  # shown of mistakes and of label errors
MAX_CURVES = 5  # classes whose curves are drawn
EXPLAINING_SHARE, LABELS_SHARE = 0.3, 0.8  # of a limited time: when these are over
METRICS = [field.name for field in dataclasses.fields(ModelMetrics)]


@dataclasses.dataclass(frozen=True)
class MeasuredModel:
    """A model and its predictions for the images that the report is about.

    batches: returns the batches of these images with the given numbers, in their order, as
      `DataLoader.split_batches` does.
    training: the training data, whose labels are checked; None if not at hand.
    """

    run: RunDirectory
    recipe: Recipe
    classifier: Classifier
    measured: ModelMetrics
    predictions: Predictions
    batches: Callable[[list[int]], Iterable[Batch]]
    training: DataLoader | None = None


def collect_report(
    model: MeasuredModel,
    context: ReportContext,
    check_stop: Callable[[], None] = lambda: None,
    seconds: float = math.inf,
) -> ReportData:
    """Collects all data of a report.

    Args:
      model: the model and its predictions.
      context: what the program knows of them.
      check_stop: called now and then; it raises to stop the work.
      seconds: that it may take; fewer mistakes are explained and fewer labels checked to keep it.

    Raises:
      UserError: an image can no longer be read.
    """
    started = time.perf_counter()
    mistakes = _mistakes(model, check_stop, started + EXPLAINING_SHARE * seconds)
    labels, deadline = None, started + LABELS_SHARE * seconds
    if model.training and time.perf_counter() < deadline:
        labels = _check_labels(model, model.training, check_stop, deadline)
    return ReportData(
        **{name: getattr(model.measured, name) for name in METRICS},
        run=str(model.run.path),
        recipe=model.recipe,
        context=context,
        curves=class_curves(model.predictions, model.measured),
        mistakes=mistakes,
        labels=labels,
        limited=seconds < math.inf,
        training=training_log.read(model.run),
    )


def class_curves(predictions: Predictions, measured: ModelMetrics) -> tuple[ClassCurves, ...]:
    """Of two classes the positive or second one; of more those with the smallest areas."""
    rows, rule = measured.metrics.per_class, measured.rule
    areas = {row.name: row.roc_area for row in rows if row.roc_area is not None}
    if len(predictions.classes) == 2:
        positive = rule.positive_class or predictions.classes[1]
        names = [name for name in areas if name == positive]
    else:
        names = sorted(areas, key=areas.__getitem__)[:MAX_CURVES]
    scores = decision_rule.probabilities(rule, predictions.logits), predictions.labels
    numbers = [predictions.classes.index(name) for name in names]
    return tuple(
        ClassCurves(name, roc_curve(*scores, number), precision_recall_curve(*scores, number))
        for name, number in zip(names, numbers, strict=True)
    )


def _mistakes(
    model: MeasuredModel, check_stop: Callable[[], None], deadline: float
) -> tuple[Mistake, ...]:
    """Returns all mistakes, the most confident first; MAX_IMAGES of them with images."""
    predictions = model.predictions
    predicted = predictions.logits.argmax(-1)
    confidence = decision_rule.probabilities(model.measured.rule, predictions.logits).max(-1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    source = ImageSource(model.batches, model.recipe.batch_size, check_stop)
    shown = _spread(list(zip(predictions.labels[wrong], predicted[wrong], strict=True)))
    classes = {int(n): int(predicted[n]) for n in wrong[shown[:MAX_IMAGES]]}
    jpegs = images.explain_images(model.classifier, source, classes, deadline)
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


def _spread(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Returns the order in which each pair comes once before one comes again.

    The most confident mistakes are often many images of the same thing.
    """
    earlier: Counter[tuple[int, int]] = Counter()
    rounds = []
    for pair in pairs:
        rounds.append(earlier[pair])
        earlier[pair] += 1
    return np.argsort(rounds, kind="stable").tolist()


def _check_labels(
    model: MeasuredModel, loader: DataLoader, check_stop: Callable[[], None], deadline: float
) -> LabelCheckSummary:
    from engine.evaluation import label_errors

    check = label_errors.check_labels(
        model.recipe, loader, model.classifier, check_stop, _trunk_mode(model), deadline
    )
    issues = check.issues
    rows = [row for row in issues.order.tolist() if issues.margin[row] < 0]
    numbers = check.examples[rows].tolist()
    source = ImageSource(
        functools.partial(loader.split_batches, "train"), model.recipe.batch_size, check_stop
    )
    shown = images.read_images(source, numbers[:MAX_IMAGES])
    jpegs = {number: images.jpeg(image) for number, image in shown}
    suspects = (
        SuspectLabel(
            loader.example_name(number),
            loader.classes[check.labels[row]],
            loader.classes[issues.suggested[row]],
            bool(issues.is_issue[row]),
            jpegs.get(number, b""),
        )
        for number, row in zip(numbers, rows, strict=True)
    )
    return LabelCheckSummary(
        len(check.examples), check.accuracy, check.feature_network, tuple(suspects), check.note
    )


def _trunk_mode(model: MeasuredModel) -> ComputeMode | None:
    """The mode that the run has found the fastest for its frozen layers, if it has them."""
    plans = PlanFile(model.run.plan, model.recipe, lambda line: None).plans.values()
    trials = next((plan.trunk for plan in plans if plan.trunk), ())
    mode = precision.choose_trial(trials).mode if trials else None
    return mode if mode in precision.recipe_modes(model.recipe) else None
