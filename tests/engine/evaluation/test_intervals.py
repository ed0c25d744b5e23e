"""Intervals against published values, closed forms, and what happens when it is all done again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from engine.evaluation.intervals import f1_intervals, macro_f1, macro_f1_interval, wilson


@pytest.mark.parametrize(
    ("right", "count", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_as_published(right, count, expected):
    assert wilson(right, count) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (7, 9), (987, 1000), (50_000, 50_001)]
)
@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959963984540054), (0.9, 1.6448536269514722)])
def test_wilson_by_its_formula(right, count, level, z):
    share, whole = right / count, 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / whole
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / whole
    assert wilson(right, count, level) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_of_nothing_nothing_is_known():
    assert wilson(0, 0) == (0, 1)


CONFUSION = np.array([[30, 4, 1], [2, 12, 0], [3, 1, 7]])


def f1_of(chances: np.ndarray) -> np.ndarray:
    return 2 * np.diag(chances) / (chances.sum(0) + chances.sum(1))


def test_f1_of_a_class_by_the_formula_turned_round():
    """F1 = 2 TP / (2 TP + FP + FN) at TP / (TP + FP + FN) = an end of Wilson's interval."""
    for label, found in enumerate(f1_intervals(CONFUSION)):
        right = CONFUSION[label, label]
        either = CONFUSION[label].sum() + CONFUSION[:, label].sum() - right
        for share, end in zip(wilson(right, either), found, strict=True):
            assert end == pytest.approx(2 * share * either / (share * either + either))


def test_f1_of_a_class_that_is_never_there():
    each = f1_intervals(np.array([[5, 0, 0], [0, 0, 2], [0, 0, 0]]))
    assert each[0].low == pytest.approx(2 * wilson(5, 5).low / (1 + wilson(5, 5).low))
    assert each[0].high == 1
    assert each[1].low == each[2].low == 0
    assert 0.5 < each[1].high < 1
    assert f1_intervals(np.diag([3, 0]))[1] == (0, 1)


def test_macro_f1_as_scikit_learn_has_it():
    given, predicted = np.indices(CONFUSION.shape).reshape(2, -1)
    given, predicted = (np.repeat(part, CONFUSION.flat) for part in (given, predicted))
    assert macro_f1(CONFUSION) == pytest.approx(f1_score(given, predicted, average="macro"))
    assert macro_f1(np.diag([4, 4, 0])) == 1, "what does not occur is left out"


def test_of_many_images_the_interval_is_what_drawing_them_anew_gives():
    """The percentiles of a bootstrap within each class; Efron 1979."""
    confusion = CONFUSION * 50
    random, rows = np.random.default_rng(1), confusion.sum(1)
    drawn = np.stack(
        [random.multinomial(n, row / n, 20_000) for n, row in zip(rows, confusion, strict=True)], 1
    )
    means = np.array([f1_of(one).mean() for one in drawn])
    found = macro_f1_interval(confusion)
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=1.5e-3)


def one_in(classes: int, images: int, right: tuple[float, float]):
    """So many images of each class; classes are told right by chances between these two, and
    taken for others by chances that are drawn.
    """
    random = np.random.default_rng(0)
    chances = random.dirichlet(np.ones(classes), classes)
    np.fill_diagonal(chances, 0)
    own = random.uniform(*right, classes)
    chances *= ((1 - own) / chances.sum(1))[:, None]
    return chances + np.diag(own), np.full(classes, images)


WORLDS = {
    "two classes": one_in(2, 100, (0.9, 0.95)),
    "nearly no mistakes": one_in(2, 150, (0.99, 0.99)),
    "few images": one_in(2, 10, (0.85, 0.95)),
    "uneven": (one_in(5, 0, (0.8, 0.9))[0], np.array([500, 100, 30, 10, 4])),
    "many classes": one_in(30, 10, (0.6, 1.0)),
    "many classes of three": one_in(100, 3, (0.5, 0.9)),
    "many classes of two": one_in(200, 2, (0.6, 1.0)),
    "of three, nearly all right": one_in(100, 3, (0.98, 1.0)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_macro_f1_covers_what_endlessly_many_images_would_give(name):
    """400 samples; 95 % is then counted as 91.7 to 98.3, but for three times in 1,000."""
    chances, sizes = WORLDS[name]
    true = f1_of(chances * sizes[:, None]).mean()
    random = np.random.default_rng(0)
    held, widths = [], []
    for _ in range(400):
        sample = [random.multinomial(n, row) for n, row in zip(sizes, chances, strict=True)]
        low, high = macro_f1_interval(np.stack(sample), draws=300)
        held.append(low <= true <= high)
        widths.append(high - low)
    print(f"{name}: held {np.mean(held):.1%}, {np.mean(widths):.3f} wide")
    assert np.mean(held) >= 0.917


def test_f1_of_a_class_covers_what_endlessly_many_images_would_give():
    chances = np.array([[0.45, 0.05, 0.02], [0.06, 0.24, 0.01], [0.03, 0.02, 0.12]])
    random = np.random.default_rng(0)
    samples = [random.multinomial(150, chances.ravel()).reshape(3, 3) for _ in range(400)]
    each = np.array([f1_intervals(sample) for sample in samples])
    held = ((each[..., 0] <= f1_of(chances)) & (f1_of(chances) <= each[..., 1])).mean(0)
    assert (held > 0.917).all(), held
    assert held.mean() < 0.985, "so wide that it says nothing"


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
def test_no_mistakes_or_nothing_else_is_not_taken_for_certain(confusion):
    """And the figure itself is within."""
    low, high = macro_f1_interval(confusion)
    here = macro_f1(confusion)
    assert 0 <= low <= here <= high <= 1
    assert high - low > 0.005


def test_of_no_mistakes_it_says_about_what_the_accuracy_does():
    low, high = macro_f1_interval(np.diag([100, 100]))
    assert low == pytest.approx(wilson(200, 200).low, abs=0.005)
    assert high == 1


def test_a_narrower_level_lies_within():
    wide, narrow = macro_f1_interval(CONFUSION), macro_f1_interval(CONFUSION, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_very_many_images_are_not_drawn_one_by_one():
    """50 million: an interval a hundred times as narrow as of 5,000, in no more memory."""
    few = np.array([[20, 5], [3, 22]])
    widths = [np.ptp(macro_f1_interval(few * times)) for times in (100, 10**6)]
    assert widths[0] / widths[1] == pytest.approx(100, rel=0.1)
