"""The data of a report, from which the page and `report.json` are made."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.core.recipe import Recipe, to_json
from engine.evaluation.classification_metrics import Curve
from engine.evaluation.model_metrics import ModelMetrics
from engine.report.training_log import TrainingLog


@dataclasses.dataclass(frozen=True)
class ReportContext:
    """What was evaluated, by which command; no file says it.

    split: of the data; `all` for all of it.
    data: where the images are.
    own: whether the images are the run's own.
    when: date and time in ISO 8601.
    views: describes what probabilities are averaged over; '' without test-time augmentation.
    trained_on: how many of the images of other data the model was trained on.
    """

    split: str
    data: str
    own: bool
    when: str
    command: str
    price_per_hour: float | None = None
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
    image, overlay: JPEGs of the image and of its heat map; empty if not shown, the second also
      where no region is evidence for the prediction.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportData(ModelMetrics):
    """All data of a report; None for what the run or its rule does not have.

    run: the run's directory.
    curves: of a few classes, those that are separated worst.
    labels: the label check of the training split.
    limited: whether its time was, so that fewer labels may have been checked, or none.
    seconds: that the report took, but for writing it.
    """

    run: str
    recipe: Recipe
    context: ReportContext
    curves: tuple[ClassCurves, ...]
    mistakes: tuple[Mistake, ...]
    labels: LabelCheckSummary | None
    training: TrainingLog | None
    limited: bool = False
    seconds: float = 0.0

    @property
    def cost(self) -> float | None:
        """Returns the cost of training and this report, in the currency of the price."""
        price = self.context.price_per_hour
        if price is None or self.training is None:
            return None
        return price * (self.training.seconds_total + self.seconds) / 3600


def as_json(data: ReportData) -> dict[str, Any]:
    """Returns all but curves and images, as JSON values."""
    return {
        "run": data.run,
        "backbone": data.recipe.backbone,
        "image_size": data.recipe.image_size,
        "recipe": to_json(data.recipe),
        **_as_dict(data.context),
        **data.metrics_as_json(),
        "mistakes": [_as_dict(mistake) for mistake in data.mistakes],
        "label_check": _as_dict(data.labels),
        "training": _as_dict(data.training),
        "report_seconds": data.seconds,
        "cost": data.cost,
    }


def _as_dict(value: Any) -> Any:
    """Returns a dataclass as a dict without its images; None stays None."""
    return value and dataclasses.asdict(value, dict_factory=_without_images)


def _without_images(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if not isinstance(value, bytes)}
