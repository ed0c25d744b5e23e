"""From a model's answers and its run's files to the facts of a report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import numpy as np

from engine.core.dataset import Batch, Feed
from engine.core.recipe import Recipe, to_json
from engine.evaluation import decision_rule, operating_point
from engine.evaluation.classification_metrics import Figures, figures, precision_recall, roc
from engine.evaluation.decision_rule import Rule
from engine.evaluation.evaluate import Answers
from engine.evaluation.reliability import calibrated
from engine.models.classifier import Classifier
from engine.report import images, training_log
from engine.report.facts import ClassCurves, Facts, LabelCheck, Mistake, Subject, Suspect
from engine.report.images import Source
from engine.runs.directory import RunDir

SHOWN = 24  # pictures on a wall
CURVES = 5  # classes whose curves are drawn


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model, and what it says of the pictures that the report is about.

    once: gives the batches with the given numbers of these pictures, in their order, as
      `Feed.once` does.
    fitted_on_these: whether the rule's temperature comes from these very answers.
    training: the data that the model learnt from, where they are at hand; their labels are checked.
    """

    run: RunDir
    recipe: Recipe
    classifier: Classifier
    rule: Rule
    answers: Answers
    once: Callable[[list[int]], Iterable[Batch]]
    fitted_on_these: bool
    training: Feed | None = None


@dataclasses.dataclass(frozen=True)
class Told:
    """What the program knows and no file tells.

    data: where the pictures are, in words. views, trained_on: see `Subject`.
    """

    part: str
    data: str
    own: bool
    when: str
    command: str
    price_per_hour: float | None = None
    views: str = ""
    trained_on: int = 0


def gather(measured: Measured, told: Told, between: Callable[[], None] = lambda: None) -> Facts:
    """Everything a report says. between: called now and then; what it raises ends the work.

    Raises:
      UserError: a picture can't be read any more.
    """
    answers, rule, training = measured.answers, measured.rule, measured.training
    chances = decision_rule.probabilities(rule, answers.logits)
    found = figures(answers, rule)
    between()
    return Facts(
        subject=_subject(measured, told),
        rule=rule,
        figures=found,
        curves=_curves(answers, rule, found, chances),
        calibrated=calibrated(answers, rule, measured.fitted_on_these),
        operating=operating_point.at_threshold(answers, rule),
        decided=operating_point.decided(answers, rule),
        mistakes=_mistakes(measured, chances, between),
        labels=_labels(measured, training, between) if training else None,
        course=training_log.read(measured.run),
        price_per_hour=told.price_per_hour,
    )


def _subject(measured: Measured, told: Told) -> Subject:
    recipe = measured.recipe
    return Subject(
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
    answers: Answers, rule: Rule, found: Figures, chances: np.ndarray
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
            roc(chances, answers.labels, label),
            precision_recall(chances, answers.labels, label),
        )
        for name, label in places.items()
    )


def _mistakes(
    measured: Measured, chances: np.ndarray, between: Callable[[], None]
) -> tuple[Mistake, ...]:
    """All of them, the surest first; the first SHOWN with pictures."""
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


def _labels(measured: Measured, feed: Feed, between: Callable[[], None]) -> LabelCheck:
    """Of the training part, whose pictures the feed gives."""
    from engine.evaluation import label_errors

    checked = label_errors.check(measured.recipe, feed, measured.classifier, between)
    found = checked.suspects
    order = [int(n) for n in found.order if found.margin[n] < 0]
    shown, size = set(order[:SHOWN]), measured.recipe.batch_size
    source = Source(functools.partial(feed.once, "train"), size, between)
    suspects = {
        number: Suspect(
            feed.name(number),
            feed.classes[label],
            feed.classes[int(found.suggested[number])],
            bool(found.wrong[number]),
            images.jpeg(image) if number in shown else b"",
        )
        for number, image, label in images.take(source, order)
    }
    return LabelCheck(
        examined=int((found.suggested != label_errors.NONE).sum()),
        accuracy=checked.accuracy,
        features_of=checked.features_of,
        suspects=tuple(suspects[number] for number in order),
        note=checked.note,
    )
