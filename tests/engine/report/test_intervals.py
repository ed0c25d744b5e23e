"""Intervals against published values, closed forms, and what happens when it is all done again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from engine.report.intervals import bootstrap_f1, macro, wilson


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


def examples(confusion):
    """Labels and predictions that have this confusion matrix."""
    given, predicted = np.indices(confusion.shape).reshape(2, -1)
    return np.repeat(given, confusion.flat), np.repeat(predicted, confusion.flat)


CONFUSION = np.array([[30, 4, 1], [2, 12, 0], [3, 1, 7]])


def test_f1_as_by_drawing_the_examples_themselves():
    given, predicted = examples(CONFUSION)
    random = np.random.default_rng(1)
    drawn, means = [], []
    for _ in range(2000):
        rows = random.integers(0, len(given), len(given))
        scores = f1_score(given[rows], predicted[rows], average=None, labels=[0, 1, 2])
        drawn.append(scores)
        means.append(f1_score(given[rows], predicted[rows], average="macro"))
    each, whole = bootstrap_f1(CONFUSION)
    edges = [0.025, 0.975]
    np.testing.assert_allclose(each, np.quantile(drawn, edges, axis=0).T, atol=0.02)
    np.testing.assert_allclose(whole, np.quantile(means, edges), atol=0.02)


def test_f1_with_few_pieces_at_once_and_with_many(monkeypatch):
    whole = bootstrap_f1(CONFUSION, draws=50)
    monkeypatch.setattr("engine.report.intervals._AT_ONCE", 7 * np.count_nonzero(CONFUSION))
    np.testing.assert_allclose(np.vstack(bootstrap_f1(CONFUSION, draws=50)[0]), np.vstack(whole[0]))


def test_f1_covers_what_endlessly_many_pictures_would_give():
    """200 samples of 150 pictures; how often the interval holds the true value."""
    chances = np.array([[0.45, 0.05, 0.02], [0.06, 0.24, 0.01], [0.03, 0.02, 0.12]])
    true = 2 * np.diag(chances) / (chances.sum(0) + chances.sum(1))
    random = np.random.default_rng(0)
    held = []
    for _ in range(200):
        sample = random.multinomial(150, chances.ravel()).reshape(3, 3)
        each, whole = bootstrap_f1(sample, draws=300)
        pairs = zip([*each, whole], [*true, true.mean()], strict=True)
        held.append([low <= value <= high for (low, high), value in pairs])
    shares = np.mean(held, axis=0)
    assert (shares > 0.89).all(), shares
    assert shares.mean() < 0.99, "so wide that it says nothing"


def test_f1_of_a_class_that_is_never_there():
    confusion = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    each, whole = bootstrap_f1(confusion)
    assert each == [(1, 1), (1, 1), (0, 0)]
    assert whole == (1, 1)


def test_another_seed_draws_otherwise_and_a_narrower_level_lies_within():
    wide, narrow = bootstrap_f1(CONFUSION)[1], bootstrap_f1(CONFUSION, level=0.5)[1]
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_f1(CONFUSION)[1] == wide
    assert bootstrap_f1(CONFUSION, seed=1)[1] != wide


def test_macro_leaves_out_what_does_not_occur():
    f1, occurring = np.array([0.5, 0.0, 0.0]), np.array([True, True, False])
    assert macro(f1, occurring) == 0.25
