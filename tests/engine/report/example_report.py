"""The data of invented reports."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.model_metrics import measure_model
from engine.report.collect import class_curves
from engine.report.images import jpeg
from engine.report.report_data import (
    LabelCheckSummary,
    Mistake,
    ReportContext,
    ReportData,
    SuspectLabel,
)
from engine.report.training_log import SPENT, Epoch, PhaseLog, SplitResult, TrainingLog
from tests.engine import small

RULE = DecisionRule(1.5, "class 1", 0.3, 0.95, 0.5)
CONTEXT = ReportContext(
    "validation", "the run's own", True, "2026-02-03T04:05:06+00:00", "bin/train", 4.0
)
SQUARE = jpeg(np.full((8, 8, 3), 90, np.uint8))
TRAINING = TrainingLog(
    verdict=("It overfitted.", "Test is below validation."),
    splits={"validation": SplitResult(0.9, 0.3, 300), "test": SplitResult(0.8, 0.5, 400)},
    epochs=tuple(
        Epoch("head" if n < 2 else "all", n % 2 + 1, 1 / (n + 1), 0.5 + n / 10, 1 / (n + 2),
              0.55 + n / 10, 1e-3, 1234.5, 2.0)
        for n in range(4)
    ),
    best_epoch=3,
    phases=(PhaseLog("head", 2, 2562), PhaseLog("all", 2, 9)),
    spent={**dict.fromkeys(SPENT, 0.0), "seconds": 6.0, "fill_seconds": 1.0,
           "eval_seconds": 1.0, "save_seconds": 0.5, "wait_seconds": 2.0},
    seconds_to_first_step=7.0, seconds_total=90.0, peak_memory_bytes={"host": 1_970_000_000},
    software={"python": "3.11"},
    machine={"cpu": "A Processor", "cores": 2, "gpus": [{"name": "A Card"}],
             "memory_bytes": 8_000_000_000},
)  # fmt: skip


def predictions(classes: int, images: int = 300) -> Predictions:
    random = np.random.default_rng(0)
    labels = (np.arange(images) % classes).astype(np.int32)
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 2.5
    names = tuple(f"class {number}" for number in range(classes))
    return Predictions(names, labels, logits, lambda n: f"/data/val/{n}.jpg")


def suspects(*likely: bool) -> LabelCheckSummary:
    """One suspect label for each."""
    names = (f"/data/train/{n}.jpg" for n in range(len(likely)))
    pairs = zip(names, likely, strict=True)
    every = tuple(SuspectLabel(name, "class 0", "class 1", one, SQUARE) for name, one in pairs)
    return LabelCheckSummary(500, 0.97, "efficientnet_lite0", every)


def report(classes: int = 3, rule: DecisionRule = RULE, images: int = 300, **changes) -> ReportData:
    """Everything that a page can show."""
    found = predictions(classes, images)
    measured = measure_model(found, rule, True)
    data = ReportData(
        **vars(measured),
        run="runs/flowers",
        recipe=small.recipe(image_size=(192, 256)),
        context=CONTEXT,
        curves=class_curves(found, measured),
        mistakes=(
            Mistake("/data/val/1.jpg", "class 0", "class 1", 0.987, SQUARE, SQUARE),
            Mistake("/data/val/sub/2.jpg", "class 1", "class 0", 0.9),
        ),
        labels=suspects(True),
        training=TRAINING,
        seconds=10.0,
    )
    return dataclasses.replace(data, **changes)
