"""Decision rules: probabilities and decisions by hand, and a rule saved with its model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.special

from engine.core import files
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DEFAULT_RULE, UNCERTAIN, DecisionRule
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory

CLASSES = ("a", "b", "c")
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.15, 0.8, 0.05], [0.5, 0.3, 0.2]])
FULL = DecisionRule(1.25, "b", 0.1 + 0.2, 0.95, 0.6)  # 0.30000000000000004


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_probabilities_are_the_softmax_of_scaled_logits(temperature, kind):
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(kind)
    found = decision_rule.probabilities(DecisionRule(temperature), logits)
    assert found.dtype == np.float64
    expected = scipy.special.softmax(logits.astype(float) / temperature, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    logarithms = scipy.special.log_softmax(logits.astype(float) / temperature, -1)
    np.testing.assert_allclose(
        decision_rule.log_probabilities(logits, temperature), logarithms, rtol=1e-9
    )


def test_log_probabilities_of_large_logits_are_finite():
    found = decision_rule.log_probabilities(np.array([[3e38, 0], [-3e38, 0]], np.float32), 0.05)
    np.testing.assert_allclose(found[[0, 1], [0, 1]], 0)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (DecisionRule(2.0), [0, 2, 1, 0]),
        (DecisionRule(positive_class="b", threshold=0.3), [0, 1, 1, 1]),  # 0.3 is enough
        (DecisionRule(positive_class="b", threshold=0.9), [0, 2, 0, 0]),  # the next best
        (DecisionRule(positive_class="b", threshold=0.0), [1, 1, 1, 1]),
        (DecisionRule(abstain=0.5), [0, UNCERTAIN, 1, 0]),  # 0.5 is enough
        (DecisionRule(abstain=1.0), [UNCERTAIN] * 4),
        (DecisionRule(1.0, "b", 0.3, abstain=0.6), [0, UNCERTAIN, 1, UNCERTAIN]),
    ],
)
def test_decisions_by_hand(rule, expected):
    assert decision_rule.decide(rule, CLASSES, PROBABILITIES).tolist() == expected
    assert rule.overrides_argmax == (rule != DecisionRule(2.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0; allowed: a number, 0.001 to 1000"),
        ({"temperature": -1.0}, "temperature=-1.0; allowed: a number, 0.001 to 1000"),
        ({"temperature": float("nan")}, "temperature=nan; allowed: a number, 0.001 to 1000"),
        ({"abstain": 1.01}, "abstain=1.01; allowed: a number, 0 to 1"),
        ({"abstain": float("nan")}, "abstain=nan; allowed: a number, 0 to 1"),
        ({"min_recall": -0.1}, "min_recall=-0.1; allowed: a number, 0 to 1"),
        ({"positive_class": "a", "threshold": 2.0}, "threshold=2.0; allowed: a number, 0 to 1"),
        ({"positive_class": "a"}, "positive_class and threshold go together"),
        ({"threshold": 0.5}, "positive_class and threshold go together"),
    ],
)
def test_rule_with_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        DecisionRule(**values)


def test_rule_of_a_model_without_one_is_the_default():
    for values in (None, {}):
        assert decision_rule.parse_rule(values, CLASSES) == DEFAULT_RULE


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """A run with a model file that has no rule."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    values = {"classes": list(CLASSES), "epoch": 3, "val_accuracy": 0.5}
    files.write(run.best, checkpoints.pack({"model": [np.arange(5.0), np.eye(2)]}, values))
    return run


def test_saved_rule_leaves_the_model_unchanged(run):
    arrays, values = best_model.load_best_model(run)
    best_model.save_decision_rule(run, FULL)
    reloaded, found = best_model.load_best_model(run)
    assert best_model.decision_rule_of(run, found) == FULL
    assert {**values, "rule": dataclasses.asdict(FULL)} == found
    for one, other in zip(arrays, reloaded, strict=True):
        assert one.tobytes() == other.tobytes()
    best_model.save_decision_rule(run, DEFAULT_RULE)
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) == DEFAULT_RULE


def test_saving_a_rule_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no model yet"):
        best_model.save_decision_rule(RunDirectory(tmp_path), FULL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        ("softmax", "rule is str; allowed: an object"),
        (False, "rule is bool; allowed: an object"),
        ({"temprature": 2}, r"'temprature' does not exist \(did you mean 'temperature'\?\)"),
        ({"temperature": "2"}, "rule.temperature='2'; allowed: a number"),
        ({"temperature": None}, "rule.temperature=None; allowed: a number"),
        ({"temperature": 10**400}, "rule.temperature=10000.*; allowed: a number"),
        ({"positive_class": 1, "threshold": 0.5}, "rule.positive_class=1; allowed: a word"),
        ({"positive_class": "d", "threshold": 0.5}, "'d' does not exist.*; allowed: a, b, c"),
        ({"positive_class": "\x1b[2J\n", "threshold": 0.5}, r"does not exist; allowed: a, b, c"),
        ({"positive_class": "x" * 9**5, "threshold": 0.5}, "does not exist|…"),
    ],
)
def test_invalid_rule_in_a_model_file_is_refused_in_one_line(run, hostile, message):
    arrays, values = best_model.load_best_model(run)
    files.write(run.best, checkpoints.pack({"model": arrays}, {**values, "rule": hostile}))
    with pytest.raises(UserError, match=message) as raised:
        best_model.decision_rule_of(run, best_model.load_best_model(run)[1])
    text = str(raised.value)
    assert text.startswith(f"{run.best}: ")
    assert text.endswith("train again with --overwrite")
    assert text.isprintable()
    assert len(text) < 2500


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.3, "0.3000"), (0.99994, "0.9999"), (0.99996, "0.99996"), (2e-6, "0.000002"), (1.0, "1"),
     (0.0, "0"), (1e-30, "1e-30"), (1 - 2**-53, "0.9999999999999999")],
)  # fmt: skip
def test_threshold_text_is_neither_0_nor_1_unless_it_is(share, text):
    assert decision_rule.format_threshold(share) == text
