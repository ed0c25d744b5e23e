"""Intervals agree with published values and closed forms, and cover the true value."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from engine.evaluation.intervals import (
    difference,
    f1_intervals,
    macro_f1,
    macro_f1_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "count", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (0, 0, (0, 1)),  # everything
    ],
)
def test_wilson_as_published(correct, count, expected):
    assert wilson(correct, count) == pytest.approx(expected, abs=5e-5)


def test_difference_as_published():
    """Newcombe 1998, table II, method 10: 56 of 70 less 48 of 80."""
    found = difference(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


CONFUSION = np.array([[30, 4, 1], [2, 12, 0], [3, 1, 7]])


def f1_of(shares: np.ndarray) -> np.ndarray:
    return 2 * np.diag(shares) / (shares.sum(0) + shares.sum(1))


def test_f1_interval_inverts_its_formula():
    """F1 = 2 TP / (2 TP + FP + FN) at TP / (TP + FP + FN) = an end of Wilson's interval."""
    for label, interval in enumerate(f1_intervals(CONFUSION)):
        correct = CONFUSION[label, label]
        either = CONFUSION[label].sum() + CONFUSION[:, label].sum() - correct
        for share, end in zip(wilson(correct, either), interval, strict=True):
            assert end == pytest.approx(2 * share * either / (share * either + either))


def test_f1_interval_of_a_class_without_labels_or_predictions():
    intervals = f1_intervals(np.array([[5, 0, 0], [0, 0, 2], [0, 0, 0]]))
    low = wilson(5, 5).low
    assert intervals[0] == (pytest.approx(2 * low / (1 + low)), 1)
    assert intervals[1].low == intervals[2].low == 0
    assert 0.5 < intervals[1].high < 1
    assert f1_intervals(np.diag([3, 0]))[1] == (0, 1)


def test_macro_f1_equals_scikit_learn():
    labels, predicted = (np.repeat(x, CONFUSION.flat) for x in np.indices((3, 3)).reshape(2, -1))
    assert macro_f1(CONFUSION) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert macro_f1(np.diag([4, 4, 0])) == 1, "classes that do not occur are left out"


def test_macro_f1_interval_of_many_images_equals_a_plain_bootstrap():
    """Percentiles of a bootstrap within each class; Efron 1979."""
    confusion = CONFUSION * 50
    random, rows = np.random.default_rng(1), confusion.sum(1)
    samples = [random.multinomial(n, c / n, 20_000) for n, c in zip(rows, confusion, strict=True)]
    means = np.array([f1_of(sample).mean() for sample in np.stack(samples, 1)])
    interval = macro_f1_interval(confusion)
    np.testing.assert_allclose(interval, np.quantile(means, [0.025, 0.975]), atol=1.5e-3)


def population(classes: int, images: int, recalls: tuple[float, float]):
    """Row shares of a confusion matrix with recalls in this range, and images of each class."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(classes), classes)
    np.fill_diagonal(shares, 0)
    own = random.uniform(*recalls, classes)
    shares *= ((1 - own) / shares.sum(1))[:, None]
    return shares + np.diag(own), np.full(classes, images)


POPULATIONS = {
    "two classes": population(2, 100, (0.9, 0.95)),
    "nearly no mistakes": population(2, 150, (0.99, 0.99)),
    "few images": population(2, 10, (0.85, 0.95)),
    "uneven": (population(5, 0, (0.8, 0.9))[0], np.array([500, 100, 30, 10, 4])),
    "many classes": population(30, 10, (0.6, 1.0)),
    "many classes of three": population(100, 3, (0.5, 0.9)),
    "many classes of two": population(200, 2, (0.6, 1.0)),
    "of three, nearly all correct": population(100, 3, (0.98, 1.0)),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_macro_f1_interval_covers_the_true_value(name):
    """400 samples; 95 % is then counted as 91.7 to 98.3, but for three times in 1,000."""
    shares, sizes = POPULATIONS[name]
    true = f1_of(shares * sizes[:, None]).mean()
    random = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(400):
        sample = [random.multinomial(n, row) for n, row in zip(sizes, shares, strict=True)]
        low, high = macro_f1_interval(np.stack(sample))
        covered.append(low <= true <= high)
        widths.append(high - low)
    print(f"{name}: covered {np.mean(covered):.1%}, {np.mean(widths):.3f} wide")
    assert np.mean(covered) >= 0.917


def test_f1_interval_covers_the_true_value():
    shares = np.array([[0.45, 0.05, 0.02], [0.06, 0.24, 0.01], [0.03, 0.02, 0.12]])
    random = np.random.default_rng(0)
    samples = [random.multinomial(150, shares.ravel()).reshape(3, 3) for _ in range(400)]
    intervals = np.array([f1_intervals(sample) for sample in samples])
    covered = (intervals[..., 0] <= f1_of(shares)) & (f1_of(shares) <= intervals[..., 1])
    assert (covered.mean(0) > 0.917).all(), covered.mean(0)
    assert covered.mean() < 0.985, "so wide that it is useless"


@pytest.mark.parametrize(
    "confusion",
    [
        np.diag([1, 0, 0]),
        np.array([[0, 1], [0, 0]]),
        np.diag([100, 100]),
        np.array([[0, 7], [9, 0]]),
        np.diag([0, 3, 5]),
        np.ones((4, 4), int),
    ],
)
def test_macro_f1_interval_of_an_extreme_matrix_is_not_a_point(confusion):
    low, high = macro_f1_interval(confusion)
    assert 0 <= low <= macro_f1(confusion) <= high <= 1
    assert high - low > 0.005


def test_macro_f1_interval_without_mistakes_agrees_with_accuracy():
    low, high = macro_f1_interval(np.diag([100, 100]))
    assert low == pytest.approx(wilson(200, 200).low, abs=0.005)
    assert high == 1
