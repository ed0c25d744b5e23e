"""A run's best model made ready to serve: in which program, and what a batch takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np

from engine.frozen.precision import FLOAT32
from engine.inference import predictor
from engine.inference.predictor import Predictor
from engine.runs.directory import RunDirectory

TRIED = 32  # images of the batch that precisions are tried on
REPEATS = 3


def load(run: RunDirectory, chosen: str, say: Callable[[str], None]) -> Predictor:
    """The model of a run.

    Args:
      chosen: `float32`, or `auto`: the fastest precision here among the sound ones, tried on drawn
        images, since a run holds none.
      say: takes the lines that tell what was tried.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    model = predictor.from_run(run)
    if chosen == "auto":
        model = model.in_fastest_mode(drawn(TRIED, model.image_size), say)
    return model.with_constant_kernels() if model.mode == FLOAT32 else model


def drawn(count: int, size: tuple[int, int]) -> np.ndarray:
    """Images with two colours that run into each other and some noise, each with its own.

    uint8 [count, H, W, 3].
    """
    random = np.random.default_rng(0)
    height, width = size
    ends = random.uniform(0, 255, (2, count, 1, 1, 3))
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    noise = random.uniform(-20, 20, (count, height, width, 3))
    return np.clip(ends[0] + (ends[1] - ends[0]) * down * across + noise, 0, 255).astype(np.uint8)


def seconds(model: Predictor, sizes: Iterable[int]) -> dict[int, float]:
    """What a batch of each size takes; each is compiled, so that no request waits for that."""
    return {size: _quickest(model, size) for size in sizes}


def _quickest(model: Predictor, size: int) -> float:
    """Of some batches; the first one compiles."""
    images = drawn(size, model.image_size)
    answers(model, images)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        answers(model, images)
        times.append(time.perf_counter() - started)
    return min(times)


def answers(model: Predictor, images: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] -> probabilities, float32 [B, classes]."""
    return model.probabilities(images).numpy()
