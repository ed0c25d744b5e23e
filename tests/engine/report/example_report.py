"""The data of invented reports."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.evaluation import decision_rule
from engine.evaluation.classification_metrics import (
    classification_metrics,
    precision_recall_curve,
    roc_curve,
)
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.operating_point import decisions_of_rule, measure_operating_point
from engine.evaluation.reliability import measure_reliability
from engine.report.images import jpeg
from engine.report.report_data import (
    ClassCurves,
    LabelCheckSummary,
    Mistake,
    ReportData,
    ReportSubject,
    SuspectLabel,
)
from engine.report.training_log import Epoch, PhaseLog, TrainingLog

WHEN = "2026-02-03T04:05:06+00:00"


def predictions(classes: int, images: int = 300, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = (np.arange(images) % classes).astype(np.int32)
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 2.5
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions(names, labels, logits, lambda n: f"/data/val/{n}.jpg")


def subject(classes: tuple[str, ...]) -> ReportSubject:
    return ReportSubject(
        run="runs/flowers", split="validation", data="the run's own", own=True, classes=classes,
        backbone="efficientnet_lite0", image_size=(192, 256), when=WHEN,
        command="bin/train --data_dir=flowers", recipe='{\n  "seed": 0\n}',
    )  # fmt: skip


def training(epochs: int = 4) -> TrainingLog:
    rows = [
        Epoch("head" if n < 2 else "all", n % 2 + 1, 1 / (n + 1), 0.5 + n / 10, 1 / (n + 2),
              0.55 + n / 10, 1e-3, 1234.5, 2.0)
        for n in range(epochs)
    ]  # fmt: skip
    phases = (PhaseLog("head", 2, 40, 2562, 4.0, 900.0), PhaseLog("all", 2, 40, 9, 4.0, 90.0))
    return TrainingLog(
        epochs=tuple(rows), best_epoch=epochs - 1, phases=phases,
        spent={"seconds": 6.0, "fill_seconds": 1.0, "eval_seconds": 1.0, "save_seconds": 0.5,
               "wait_seconds": 2.0},
        seconds_to_first_step=7.0, seconds_total=90.0, peak_memory_bytes={"host": 1_970_000_000},
        software={"python": "3.11"},
        machine={"cpu": "A Processor", "cores": 2, "gpus": [{"name": "A Card"}],
                 "memory_bytes": 8_000_000_000},
    )  # fmt: skip


def report(
    classes: int = 3, rule: DecisionRule | None = None, images: int = 300, **changes
) -> ReportData:
    """Everything that a page can show."""
    found = predictions(classes, images)
    rule = rule or DecisionRule(1.5, "class 1", 0.3, 0.95, 0.5)
    probabilities = decision_rule.probabilities(rule, found.logits)
    square = jpeg(np.full((8, 8, 3), 90, np.uint8))
    data = ReportData(
        subject=subject(found.classes),
        rule=rule,
        metrics=classification_metrics(found, rule),
        curves=tuple(
            ClassCurves(found.classes[label], roc_curve(probabilities, found.labels, label),
                        precision_recall_curve(probabilities, found.labels, label))
            for label in (range(min(classes, images, 5)) if classes > 2 else [1])
        ),
        reliability=measure_reliability(found, rule, True),
        operating_point=measure_operating_point(probabilities, found.labels, 1, 0.3),
        decisions=decisions_of_rule(found, rule),
        mistakes=(
            Mistake("/data/val/1.jpg", "class 0", "class 1", 0.987, square, square),
            Mistake("/data/val/sub/2.jpg", "class 1", "class 0", 0.9),
        ),
        labels=LabelCheckSummary(
            500, 0.97, "efficientnet_lite0",
            (SuspectLabel("/data/train/7.jpg", "class 0", "class 1", True, square),),
        ),
        training=training(),
        price_per_hour=4.0,
    )  # fmt: skip
    return dataclasses.replace(data, **changes)
