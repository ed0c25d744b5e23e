"""Metrics as JSON values: what `report.json` and bin/evaluate have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.evaluation.calibration import Reliability
from engine.evaluation.classification_metrics import ClassificationMetrics
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint


def metrics_as_json(
    metrics: ClassificationMetrics,
    reliability: Reliability,
    rule: DecisionRule,
    operating_point: OperatingPoint | None,
    decisions: AbstentionMetrics | None,
) -> dict[str, Any]:
    values, calibration = dataclasses.asdict(metrics), dataclasses.asdict(reliability)
    for bins in ("bins_before", "bins_after"):
        calibration[bins] = [row._asdict() for row in calibration[bins]]
    decided = decisions and dataclasses.asdict(decisions)
    return {
        "classes": [row.name for row in metrics.per_class],
        "confusion_matrix": values.pop("confusion").tolist(),
        "most_confused": values.pop("confused_pairs"),
        "per_class": {row.pop("name"): row for row in values.pop("per_class")},
        **values,
        "calibration": calibration,
        "rule": dataclasses.asdict(rule),
        "operating": operating_point and dataclasses.asdict(operating_point),
        "decided": decided,
        "abstaining": None if rule.abstain is None else decided,
    }
