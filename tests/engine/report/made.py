"""Answers for tests of the report."""

from __future__ import annotations

import numpy as np

from engine.evaluation.evaluate import Predictions


def answers(count: int = 60, classes: int = 3, seed: int = 0, better: float = 1.5) -> Predictions:
    """Random logits; that of the given label is larger by `better`."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count).astype(np.int32)
    logits = random.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += better
    return Predictions(tuple(f"class {n}" for n in range(classes)), labels, logits)
