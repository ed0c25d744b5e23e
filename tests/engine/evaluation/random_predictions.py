"""Predictions with random logits."""

from __future__ import annotations

import numpy as np

from engine.evaluation.evaluate import Predictions


def random_predictions(
    count: int = 60, classes: int = 3, seed: int = 0, margin: float = 1.5
) -> Predictions:
    """The label's logit is larger by `margin`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.int32)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += margin
    return Predictions(tuple(f"class {n}" for n in range(classes)), labels, logits)
