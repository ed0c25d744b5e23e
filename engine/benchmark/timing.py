"""Times workloads in turn, so that disturbances of the machine affect all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from engine.benchmark.measurement import Rate
from engine.runtime import background

SAMPLE_SECONDS = 0.4  # a shorter workload is repeated until its sample takes as long


class Workload(NamedTuple):
    """`run()` processes `images` images and returns when the device has finished."""

    run: Callable[[], object]
    images: int


def measure_in_turn(workloads: Mapping[str, Workload], repeats: int) -> dict[str, list[float]]:
    """Returns the images/s of each workload in every round, after two warm-up runs of each."""
    counts = {}
    for name, workload in workloads.items():
        workload.run()  # compiles
        counts[name] = max(1, math.ceil(SAMPLE_SECONDS / max(_seconds(workload, 1), 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in workloads}
    with background.paused():
        for _ in range(repeats):
            for name, workload in workloads.items():
                samples[name].append(
                    workload.images * counts[name] / _seconds(workload, counts[name])
                )
    return samples


def _seconds(workload: Workload, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        workload.run()
    return time.perf_counter() - started


def speed_ratio(ours: list[float], theirs: list[float]) -> Rate:
    """Returns median and quartiles of the rounds' ratios of `ours` to `theirs`."""
    return Rate.of([our / their for our, their in zip(ours, theirs, strict=True)])
