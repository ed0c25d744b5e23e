"""What is said of how a run went."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.evaluate import Evaluation
from engine.training.verdict import verdict


def right(correct: int, count: int) -> Evaluation:
    """Two classes of equal size, of which so many images are right."""
    half, wrong = count // 2, count - correct
    return Evaluation(0.5, np.array([[half, 0], [wrong, half - wrong]]))


def rows(*losses: tuple[float, float]) -> list[dict]:
    """Epochs of one phase with these losses of training and validation."""
    return [
        {"phase": "head", "epoch": number, "train_loss": train, "val_loss": val}
        for number, (train, val) in enumerate(losses, 1)
    ]


SETTLED = rows((0.4, 0.31), (0.3, 0.3), (0.29, 0.3))


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (SETTLED, "no sign of overfitting"),
        (rows((0.5, 0.4), (0.4, 0.3)), "still improving at its end"),
        (rows((0.5, 0.4), (0.1, 0.6)), "overfitted: since head epoch 1 the validation loss rose"),
        (rows((0.5, 0.4), (0.9, 0.6)), "became worse: since head epoch 1"),
        (rows((0.5, 0.4)), "no sign of overfitting"),
    ],
)
def test_verdict_says_how_the_losses_went(history, said):
    (sentence,) = verdict(history, {"validation": right(970, 1000)})
    assert said in sentence


@pytest.mark.parametrize(
    ("correct", "said"),
    [
        (960, "1.0% below validation, no more than chance explains"),
        (900, "7.0% below validation, more than chance explains"),
        (990, "2.0% above validation, more than chance explains"),
    ],
)
def test_verdict_compares_test_with_validation(correct, said):
    evaluations = {"validation": right(970, 1000), "test": right(correct, 1000)}
    assert said in verdict(SETTLED, evaluations)[0]


def test_verdict_names_too_few_images():
    assert "80 validation images are few" in verdict(SETTLED, {"validation": right(72, 80)})[-1]


def test_verdict_names_an_accuracy_of_the_most_frequent_class():
    constant = Evaluation(0.5, np.array([[900, 0], [100, 0]]))
    assert "not clearly above the 90.0%" in verdict(SETTLED, {"validation": constant})[0]
