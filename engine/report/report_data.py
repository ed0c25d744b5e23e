"""What a report says, in one value: the page and `report.json` are both made from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.evaluation.classification_metrics import ClassificationMetrics, ClassMetrics, Curve
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import Reliability
from engine.report.training_log import TrainingLog


@dataclasses.dataclass(frozen=True)
class ReportSubject:
    """What was measured, and by which command.

    run: the run's directory. part: of the data. data: where the images are.
    own: whether the images are the run's own. views: what each answer is the mean over, in words;
    nothing where it is of the image as it is. when: a date and time. recipe: as JSON.
    trained_on: how many of other data's images the model was trained on.
    """

    run: str
    part: str
    data: str
    own: bool
    classes: tuple[str, ...]
    backbone: str
    image_size: tuple[int, int]
    when: str
    command: str
    recipe: str
    views: str = ""
    trained_on: int = 0


@dataclasses.dataclass(frozen=True)
class ClassCurves:
    """How a class is told from all others, at every threshold."""

    name: str
    roc: Curve
    precision_recall: Curve


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image with a wrong answer. JPEG bytes of it, and of where the network looked.

    probability: of the predicted class. The bytes are empty for those that are listed only.
    """

    name: str
    given: str
    predicted: str
    probability: float
    image: bytes = b""
    overlay: bytes = b""


@dataclasses.dataclass(frozen=True)
class SuspectLabel:
    """A training image whose label the others' would not lead to, with a JPEG where it is shown.

    likely: whether the label is likely wrong, by confident learning's criterion.
    """

    name: str
    given: str
    suggested: str
    likely: bool
    image: bytes = b""


@dataclasses.dataclass(frozen=True)
class LabelCheckSummary:
    """What a look at all labels of the training part gave, the likeliest wrong first.

    examined: images. accuracy: the share of their labels that the look gives too. features_of: by
    which network's features. note: how many were looked at, where not all.
    """

    examined: int
    accuracy: float
    features_of: str
    suspects: tuple[SuspectLabel, ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """All of it; None for what the run or its rule doesn't have.

    curves: of a handful of classes, those told apart worst. decided: how right the rule's answers
      are, less those that it leaves uncertain.
    """

    subject: ReportSubject
    rule: DecisionRule
    figures: ClassificationMetrics
    curves: tuple[ClassCurves, ...]
    calibrated: Reliability
    operating: OperatingPoint | None
    decided: AbstentionMetrics | None
    mistakes: tuple[Mistake, ...]
    labels: LabelCheckSummary | None
    course: TrainingLog | None
    price_per_hour: float | None

    @property
    def abstaining(self) -> AbstentionMetrics | None:
        return None if self.rule.abstain is None else self.decided

    @property
    def cost(self) -> float | None:
        """Of the training, in the currency of the price."""
        if self.price_per_hour is None or self.course is None:
            return None
        return self.price_per_hour * self.course.seconds_total / 3600


def as_json(facts: ReportData) -> dict[str, Any]:
    """All but the images, as values of JSON."""
    figures, course = facts.figures, facts.course
    return {
        **dataclasses.asdict(facts.subject),
        "rule": dataclasses.asdict(facts.rule),
        "count": figures.count,
        "accuracy": figures.accuracy,
        "accuracy_interval": _interval(figures.accuracy_interval),
        "loss": figures.loss,
        "macro_f1": figures.macro_f1,
        "macro_f1_interval": _interval(figures.macro_f1_interval),
        "top_k": {str(k): share for k, share in figures.top_k.items()},
        "per_class": {row.name: _class(row) for row in figures.per_class},
        "confusion_matrix": figures.confusion.tolist(),
        "confused_pairs": [
            {"given": pair.given, "predicted": pair.predicted, "count": pair.count}
            for pair in figures.confused_pairs
        ],
        "calibration": _calibration(facts.calibrated),
        "operating": _plain(facts.operating),
        "decided": _plain(facts.decided),
        "abstaining": _plain(facts.abstaining),
        "mistakes": [_without_images(mistake) for mistake in facts.mistakes],
        "label_check": _label_check(facts.labels),
        "training": dataclasses.asdict(course) if course else None,
        "price_per_hour": facts.price_per_hour,
        "cost": facts.cost,
    }


def _interval(interval: Any) -> list[float]:
    return [interval.low, interval.high]


def _class(row: ClassMetrics) -> dict[str, Any]:
    return {
        "precision": row.precision,
        "recall": row.recall,
        "f1": row.f1,
        "f1_interval": _interval(row.f1_interval),
        "support": row.support,
        "roc_area": row.roc_area,
        "average_precision": row.average_precision,
    }


def _calibration(found: Reliability) -> dict[str, Any]:
    return {
        "temperature": found.temperature,
        "error_before": found.error_before,
        "error_after": found.error_after,
        "cross_fitted": found.cross_fitted,
        "bins_before": [row._asdict() for row in found.bins_before],
        "bins_after": [row._asdict() for row in found.bins_after],
    }


def _plain(found: OperatingPoint | AbstentionMetrics | None) -> dict[str, Any] | None:
    if found is None:
        return None
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return {
        name: _interval(value) if name.endswith("_interval") else value
        for name, value in values.items()
    }


def _without_images(item: Mistake | SuspectLabel) -> dict[str, Any]:
    values = dataclasses.asdict(item)
    return {name: value for name, value in values.items() if not isinstance(value, bytes)}


def _label_check(found: LabelCheckSummary | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "examined": found.examined,
        "accuracy": found.accuracy,
        "features_of": found.features_of,
        "note": found.note,
        "suspects": [_without_images(suspect) for suspect in found.suspects],
    }
