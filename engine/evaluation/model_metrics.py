"""All metrics of a model on one split, computed once for the terminal, JSON and the report."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.evaluation import calibration, classification_metrics, operating_point
from engine.evaluation.calibration import Reliability
from engine.evaluation.classification_metrics import ClassificationMetrics
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelMetrics:
    """A model's metrics; None for what its rule does not have.

    decisions: of the rule's decisions, apart from uncertain ones; None where a decision is always
      the most likely class.
    """

    rule: DecisionRule
    metrics: ClassificationMetrics
    calibration: Reliability
    operating_point: OperatingPoint | None
    decisions: AbstentionMetrics | None

    @property
    def abstention(self) -> AbstentionMetrics | None:
        return None if self.rule.abstain is None else self.decisions

    def metrics_as_json(self) -> dict[str, Any]:
        """Returns JSON values, which `report.json` and bin/evaluate have in common."""
        values, calibrated = dataclasses.asdict(self.metrics), dataclasses.asdict(self.calibration)
        for bins in ("bins_before", "bins_after"):
            calibrated[bins] = [row._asdict() for row in calibrated[bins]]
        point, decided = self.operating_point, self.decisions and dataclasses.asdict(self.decisions)
        return {
            "classes": [row.name for row in self.metrics.per_class],
            "confusion_matrix": values.pop("confusion").tolist(),
            "most_confused": values.pop("confused_pairs"),
            "per_class": {row.pop("name"): row for row in values.pop("per_class")},
            **values,
            "calibration": calibrated,
            "rule": dataclasses.asdict(self.rule),
            "operating": point and dataclasses.asdict(point),
            "decided": decided,
            "abstaining": self.abstention and decided,
        }


def measure_model(
    predictions: Predictions, rule: DecisionRule, fitted_on_these: bool
) -> ModelMetrics:
    """Computes all metrics.

    Args:
      fitted_on_these: whether the rule's temperature was fitted on these predictions.
    """
    return ModelMetrics(
        rule=rule,
        metrics=classification_metrics.classification_metrics(predictions, rule),
        calibration=calibration.measure_reliability(predictions, rule, fitted_on_these),
        operating_point=operating_point.operating_point_of_rule(predictions, rule),
        decisions=operating_point.decisions_of_rule(predictions, rule),
    )
