"""Times of works that take turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from engine.benchmark.rows import Rate
from engine.runtime import background

SAMPLE_SECONDS = 0.4  # a shorter work is repeated until a sample is as long as that


class Work(NamedTuple):
    """`run()` handles so many images and returns when that is done, on the device too."""

    run: Callable[[], object]
    images: int


def alternate(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Images a second of each work in each of the rounds, after two warm-up runs of each."""
    counts = {}
    for name, work in works.items():
        work.run()  # compiles
        counts[name] = max(1, math.ceil(SAMPLE_SECONDS / max(_seconds(work, 1), 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in works}
    with background.paused():
        for _ in range(repeats):
            for name, work in works.items():
                samples[name].append(work.images * counts[name] / _seconds(work, counts[name]))
    return samples


def _seconds(work: Work, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        work.run()
    return time.perf_counter() - started


def ratio(ours: list[float], theirs: list[float]) -> Rate:
    """How many times as fast: median and quartiles of the rounds' own ratios."""
    return Rate.of([one / other for one, other in zip(ours, theirs, strict=True)])
