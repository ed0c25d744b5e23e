"""Prepares a run's best model for serving: its precision and the seconds of each batch size."""

from __future__ import annotations

import functools
import timeit
from collections.abc import Callable, Iterable

import numpy as np

from engine.frozen.precision import FLOAT32
from engine.inference import predictor
from engine.inference.predictor import Predictor
from engine.runs.directory import RunDirectory

TRIAL_BATCH_SIZE = 32  # images that precisions are timed on
REPEATS = 4  # of each batch size


def load(run: RunDirectory, precision: str, log: Callable[[str], None]) -> Predictor:
    """Loads the model of a run.

    Args:
      precision: `float32`, or `auto`: the fastest precision within tolerance on this machine, timed
        on synthetic images, since a run holds none.
      log: receives the results of the trials.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    model = predictor.from_run(run)
    if precision == "auto":
        model = model.in_fastest_mode(synthetic_images(TRIAL_BATCH_SIZE, model.image_size), log)
    return model.with_constant_kernels() if model.mode == FLOAT32 else model


def synthetic_images(count: int, size: tuple[int, int]) -> np.ndarray:
    """Generates different colour gradients with noise: uint8 [count, H, W, 3]."""
    random = np.random.default_rng(0)
    height, width = size
    ends = random.uniform(0, 255, (2, count, 1, 1, 3))
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    noise = random.uniform(-20, 20, (count, height, width, 3))
    return np.clip(ends[0] + (ends[1] - ends[0]) * down * across + noise, 0, 255).astype(np.uint8)


def measure_batches(model: Predictor, sizes: Iterable[int]) -> dict[int, float]:
    """Measures the seconds of each batch size, and so compiles it before the first request.

    They are the least of several batches, the first of which compiles.
    """
    seconds = {}
    for size in sizes:
        images = synthetic_images(size, model.image_size)
        seconds[size] = min(
            timeit.repeat(functools.partial(predict, model, images), number=1, repeat=REPEATS)
        )
    return seconds


def predict(model: Predictor, images: np.ndarray) -> np.ndarray:
    """Predicts uint8 [B, H, W, 3] -> probabilities, float32 [B, classes]."""
    return model.probabilities(images).numpy()
