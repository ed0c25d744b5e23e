"""The solved head is scikit-learn's logistic regression, and so is the choice of its penalty."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from engine.optim import lbfgs, losses

CLASSES, FEATURES = 4, 12


@pytest.fixture(scope="module")
def examples():
    """Overlapping classes of unequal size; features, labels, folds."""
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(CLASSES), [90, 60, 40, 20]))
    centres = random.normal(size=(CLASSES, FEATURES))
    features = random.normal(size=(len(labels), FEATURES)) + 0.6 * centres[labels]
    features = (features - features.mean(0)) / features.std(0)
    return features.astype(np.float32), labels, np.arange(len(labels)) % 5


def solve(features, labels, fold_of, policy="none", **settings):
    weights = np.array(losses.class_weights(policy, np.bincount(labels)))[labels]
    return lbfgs.solve_head(
        lambda start, stop: features[start:stop],
        *(labels, weights, labels.max() + 1, features.shape[1], fold_of),
        **settings,
    )


def regression(l2, count, policy="none"):
    weight = "balanced" if policy == "balanced" else None
    strength = 1 / (l2 * count)
    return LogisticRegression(C=strength, class_weight=weight, solver="newton-cholesky", tol=1e-9)


@pytest.mark.parametrize("policy", ["none", "balanced"])
@pytest.mark.parametrize("l2", [1.0, 0.03])
def test_solution_equals_scikit_learn(examples, policy, l2):
    features, labels, _ = examples
    solution = solve(*examples, policy, l2=l2)
    expected = regression(l2, len(labels), policy).fit(features.astype(float), labels)
    np.testing.assert_allclose(solution.kernel.T, expected.coef_, atol=1e-4)
    np.testing.assert_allclose(
        solution.bias - solution.bias.mean(),
        expected.intercept_ - expected.intercept_.mean(),
        atol=1e-4,
    )
    weights = np.array(losses.class_weights(policy, np.bincount(labels)))[labels]
    probabilities = expected.predict_proba(features)
    assert solution.loss == pytest.approx(
        log_loss(labels, probabilities, sample_weight=weights), abs=1e-5
    )
    assert solution.accuracy == expected.score(features, labels)
    assert (solution.l2, solution.fold_accuracies) == (l2, ())


def test_two_classes_equal_the_binary_regression(examples):
    """Whose penalty is on the difference of the columns: twice the sum over two equal halves."""
    features, labels, fold_of = examples
    labels = labels % 2
    expected = regression(0.1 / 2, len(labels)).fit(features.astype(float), labels)
    solution = solve(features, labels, fold_of, l2=0.1)
    difference = solution.kernel[:, 1] - solution.kernel[:, 0]
    np.testing.assert_allclose(difference, expected.coef_[0], atol=1e-4)


def held_out_by_scikit_learn(features, labels, fold_of, l2):
    """Mean loss over all held-out examples, and accuracy by fold."""
    total, accuracies = 0.0, []
    for fold in np.unique(fold_of):
        out = fold_of == fold
        model = regression(l2, (~out).sum()).fit(features[~out].astype(float), labels[~out])
        total += log_loss(labels[out], model.predict_proba(features[out]), normalize=False)
        accuracies.append(model.score(features[out], labels[out]))
    return total / len(labels), accuracies


def test_chosen_penalty_equals_a_loop_of_scikit_learn(examples):
    penalties = [1 / (strength * len(examples[1])) for strength in lbfgs.PATH]
    held_out = {l2: held_out_by_scikit_learn(*examples, l2) for l2 in penalties}
    best = min(held_out, key=lambda l2: held_out[l2][0])
    assert best not in (penalties[0], penalties[-1])
    solution = solve(*examples)
    assert solution.l2 == best
    assert solution.fold_accuracies == pytest.approx(held_out[best][1])


def test_pieces_and_separate_solutions_agree(examples, monkeypatch):
    monkeypatch.setattr(lbfgs, "PATH", (0.01, 0.1, 1.0))
    whole, again = solve(*examples), solve(*examples)
    assert np.array_equal(whole.kernel, again.kernel)
    assert np.array_equal(whole.bias, again.bias)
    monkeypatch.setattr(lbfgs, "PIECE_BYTES", 15_000)
    monkeypatch.setattr(lbfgs, "MAX_COLUMNS", 2 * CLASSES)
    pieces = solve(*examples)
    assert pieces.l2 == whole.l2
    np.testing.assert_allclose(pieces.kernel, whole.kernel, atol=1e-4)


def test_class_of_one_example_says_nothing_about_the_penalty(examples):
    """Its fold has nothing to learn it from: what is held out are the examples of the others."""
    features, labels, fold_of = examples
    features, fold_of = np.append(features, [features[0] + 3], 0), np.append(fold_of, 0)
    solution = solve(features, np.append(labels, CLASSES), fold_of)
    assert solution.kernel.shape == (FEATURES, CLASSES + 1)
    assert np.isfinite(solution.kernel).all()
    others = [(fold_of[:-1] == fold).sum() for fold in range(5)]
    right = np.multiply(solution.fold_accuracies, others)
    np.testing.assert_allclose(right, np.round(right), atol=1e-6)


def test_one_example_of_each_class_takes_the_fallback(examples):
    solution = solve(examples[0][:3], np.arange(3), np.arange(3))
    assert (solution.l2, solution.fold_accuracies) == (1 / (lbfgs.FALLBACK * 3), ())
    assert solution.accuracy == 1


def test_stop_is_checked_before_each_evaluation(examples):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        solve(*examples, check_stop=stop)
