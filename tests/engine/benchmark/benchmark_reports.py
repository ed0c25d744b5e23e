"""Makes benchmark reports and measurements for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.benchmark.measurement import Measurement, Rate
from engine.benchmark.report import Report

STAGES = {"input": 1000.0, "augment": 4000.0, "trunk": 500.0, "tail": 250.0}


def rate(median: float, spread: float = 0.0) -> Rate:
    return Rate(median, median * (1 - spread), median * (1 + spread), repeats=5)


def measurement(
    whole: float = 80.0, stages: Mapping[str, float] = STAGES, **changes: Any
) -> Measurement:
    values: dict[str, Any] = {
        "backbone": "efficientnet_lite0",
        "image_size": (224, 192),
        "batch_size": 32,
        "precision": "float32",
        "phase": "fine_tune",
        "stages": {name: rate(speed) for name, speed in stages.items()},
        "whole": rate(whole, 0.1),
        "shares_cores": True,
        "peak_memory": {"host": 2_000_000_000},
    }
    return Measurement(**values | changes)


def report(*rows: Measurement, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "machine": {"cpu": "AMD EPYC", "cores": 2, "gpus": [], "driver": None, "cuda": None},
        "software": {"python": "3.11.7", "tensorflow": "2.21.0"},
        "instance_type": None,
        "price_per_hour": None,
        "when": "2026-01-02T03:04:05+00:00",
        "command": "bin/benchmark --flagfile=solar_cells.flags",
        "rows": rows or (measurement(),),
    }
    return Report(**values | changes)


def with_gpus(*names: str) -> dict[str, Any]:
    return {"cpu": "AMD EPYC", "cores": 8, "gpus": [{"name": name} for name in names]}
