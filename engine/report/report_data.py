"""The data of a report, from which the page and `report.json` are made."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.evaluation.classification_metrics import ClassificationMetrics, Curve
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import Reliability
from engine.report.training_log import TrainingLog


@dataclasses.dataclass(frozen=True)
class ReportSubject:
    """What was evaluated, and by which command.

    run: the run's directory.
    split: of the data; `all` for all of it.
    data: where the images are.
    own: whether the images are the run's own.
    when: date and time in ISO 8601.
    recipe: as JSON.
    views: describes what probabilities are averaged over; '' without test-time augmentation.
    trained_on: how many of the images of other data the model was trained on.
    """

    run: str
    split: str
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
    """One class against all others, at every threshold."""

    name: str
    roc: Curve
    precision_recall: Curve


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    given: the label.
    probability: of the predicted class.
    image, overlay: JPEGs of the image and of its heat map; empty if not shown.
    """

    name: str
    given: str
    predicted: str
    probability: float
    image: bytes = b""
    overlay: bytes = b""


@dataclasses.dataclass(frozen=True)
class SuspectLabel:
    """A training image for which a model of the others predicts another class.

    given: the label.
    likely: whether the label is likely wrong, by confident learning.
    image: a JPEG; empty if not shown.
    """

    name: str
    given: str
    suggested: str
    likely: bool
    image: bytes = b""


@dataclasses.dataclass(frozen=True)
class LabelCheckSummary:
    """The result of a label check.

    examined: number of images.
    accuracy: share of their labels that the check predicts too.
    features_of: the network whose features it used.
    suspects: most likely wrong first.
    note: how many images were examined, if not all.
    """

    examined: int
    accuracy: float
    features_of: str
    suspects: tuple[SuspectLabel, ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """All data of a report; None for what the run or its rule does not have.

    curves: of a few classes, those that are separated worst.
    decisions: the metrics of the rule's decisions, apart from uncertain ones.
    labels: the label check of the training split.
    """

    subject: ReportSubject
    rule: DecisionRule
    metrics: ClassificationMetrics
    curves: tuple[ClassCurves, ...]
    reliability: Reliability
    operating_point: OperatingPoint | None
    decisions: AbstentionMetrics | None
    mistakes: tuple[Mistake, ...]
    labels: LabelCheckSummary | None
    training: TrainingLog | None
    price_per_hour: float | None

    @property
    def abstention(self) -> AbstentionMetrics | None:
        return None if self.rule.abstain is None else self.decisions

    @property
    def cost(self) -> float | None:
        """Returns the cost of training, in the currency of the price."""
        if self.price_per_hour is None or self.training is None:
            return None
        return self.price_per_hour * self.training.seconds_total / 3600


def as_json(data: ReportData) -> dict[str, Any]:
    """Returns all but the images, as JSON values."""
    metrics = dataclasses.asdict(data.metrics)
    per_class = {row.pop("name"): row for row in metrics.pop("per_class")}
    confusion = metrics.pop("confusion").tolist()
    reliability = data.reliability
    return {
        **dataclasses.asdict(data.subject),
        "rule": dataclasses.asdict(data.rule),
        **metrics,
        "top_k": {str(k): share for k, share in data.metrics.top_k.items()},
        "per_class": per_class,
        "confusion_matrix": confusion,
        "calibration": {
            **dataclasses.asdict(reliability),
            "bins_before": [row._asdict() for row in reliability.bins_before],
            "bins_after": [row._asdict() for row in reliability.bins_after],
        },
        "operating": _as_dict(data.operating_point),
        "decided": _as_dict(data.decisions),
        "abstaining": _as_dict(data.abstention),
        "mistakes": [_without_images(mistake) for mistake in data.mistakes],
        "label_check": _label_check(data.labels),
        "training": _as_dict(data.training),
        "price_per_hour": data.price_per_hour,
        "cost": data.cost,
    }


def _as_dict(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def _without_images(item: Mistake | SuspectLabel) -> dict[str, Any]:
    values = dataclasses.asdict(item)
    return {name: value for name, value in values.items() if not isinstance(value, bytes)}


def _label_check(check: LabelCheckSummary | None) -> dict[str, Any] | None:
    if check is None:
        return None
    suspects = [_without_images(suspect) for suspect in check.suspects]
    return {**dataclasses.asdict(check), "suspects": suspects}
