"""What is said of how a run went."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.evaluate import Evaluation
from engine.training.verdict import verdict


def right(correct: int, count: int) -> Evaluation:
    """Two classes of equal size, of which so many images are right."""
    half, wrong = count // 2, count - correct
    confusion = np.array([[half, 0], [wrong, half - wrong]])
    return Evaluation(0.5, confusion, np.arange(count) < correct)


LONGER = "bin/train --init_from=runs/pets --epochs=5 --run_dir=runs/pets_longer"
COUNTS = {"cat": 500, "dog": 500}


def rows(*losses: tuple[float, float]) -> list[dict]:
    """Epochs of one phase with these losses of training and validation."""
    return [
        {"phase": "head", "epoch": number, "train_loss": train, "val_loss": val}
        for number, (train, val) in enumerate(losses, 1)
    ]


def said_of(history, evaluations, counts=COUNTS, head_right=None) -> list[str]:
    return verdict(history, evaluations, counts, "runs/pets", head_right)


SETTLED = rows((0.4, 0.31), (0.3, 0.3), (0.29, 0.3))


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (SETTLED, "no sign of overfitting"),
        (
            rows((0.5, 0.4), (0.4, 0.3)),
            "train longer: bin/train --init_from=runs/pets --epochs=5 --run_dir=runs/pets_longer.",
        ),
        (rows((0.5, 0.4), (0.1, 0.6)), "overfitted: since head epoch 1 the validation loss rose"),
        (rows((0.5, 0.4), (0.9, 0.6)), "became worse: since head epoch 1"),
        (rows((0.5, 0.4)), "no sign of overfitting"),
    ],
)
def test_verdict_says_how_the_losses_went(history, said):
    (sentence,) = said_of(history, {"validation": right(970, 1000)})
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
    assert said in said_of(SETTLED, evaluations)[0]


def test_verdict_names_too_few_images():
    assert "80 validation images are few" in said_of(SETTLED, {"validation": right(72, 80)})[-1]


def test_verdict_names_an_accuracy_of_the_most_frequent_class():
    constant = Evaluation(0.5, np.array([[900, 0], [100, 0]]))
    assert "not clearly above the 90.0%" in said_of(SETTLED, {"validation": constant})[0]


def test_verdict_compares_the_saved_model_with_the_head_alone():
    """McNemar's exact p of 5 against 2 is 0.45, of 30 against 0 about 2e-9."""
    evaluations = {"validation": right(970, 1000)}
    same, worse = np.arange(1000) < 970, np.arange(1000) < 940
    same[[965, 966, 967, 968, 969, 998, 999]] ^= True
    for head_right, said in ((same, True), (worse, False), (None, False)):
        text = " ".join(said_of(SETTLED, evaluations, head_right=head_right))
        assert ("head alone was about as good on validation, 96.7%" in text) == said
        assert ("5 more right and 2 more wrong" in text) == said
        assert ("(p = 0.45)" in text) == said


def test_verdict_names_the_smallest_class_where_classes_are_small():
    evaluations = {"validation": right(970, 1000)}
    text = " ".join(said_of(SETTLED, evaluations, {"cat": 500, "lynx": 7, "puma": 19}))
    assert "2 classes have fewer than 20 training images, lynx the fewest with 7" in text
    assert "fewer than" not in " ".join(said_of(SETTLED, evaluations))
