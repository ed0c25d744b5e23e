"""Decisions in graph operations against those in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.export import program
from tests.engine.export import leaving

EDGES = (0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("positive", [None, *leaving.CLASSES])
@pytest.mark.parametrize("abstain", [None, *EDGES])
def test_decisions_are_those_of_the_rule(positive, abstain):
    """On thresholds to the bit, and where classes are equally likely."""
    random = np.random.default_rng(0)
    ties = [[a, b, 1 - a - b] for a in EDGES for b in EDGES if a + b <= 1]
    chances = np.concatenate([random.dirichlet([1, 1, 1], 300), ties]).astype(np.float32)
    for threshold in EDGES if positive else [None]:
        rule = DecisionRule(positive_class=positive, threshold=threshold, abstain=abstain)
        found = program.decide(rule, leaving.CLASSES, tf.constant(chances))
        assert found.dtype == tf.int32
        np.testing.assert_array_equal(found, decision_rule.decide(rule, leaving.CLASSES, chances))


@pytest.mark.parametrize("name", leaving.RULES)
def test_the_program_is_the_model_with_its_rule(name):
    given = leaving.subject(leaving.RULES[name])
    images = leaving.smooth_images(8)
    answers = program.make(given)(images)
    np.testing.assert_allclose(answers["probabilities"], leaving.wanted(given, images), atol=1e-6)
    decided = decision_rule.decide(given.rule, given.classes, answers["probabilities"].numpy())
    np.testing.assert_array_equal(answers["decision"], decided)


def test_the_rules_make_different_answers():
    """Else the tests above, and those of the formats, would pass on any."""
    images = leaving.smooth_images(8)
    given = leaving.subject(leaving.RULES["plain"])
    logits = given.opened.model(images.astype(np.float32)).numpy()
    answers = {
        name: tuple(
            decision_rule.decide(rule, leaving.CLASSES, decision_rule.probabilities(rule, logits))
        )
        for name, rule in leaving.RULES.items()
    }
    assert answers["plain"] == answers["tempered"]
    assert len(set(answers.values())) == len(answers) - 1
    assert decision_rule.UNCERTAIN in answers["shy"]
    assert decision_rule.UNCERTAIN in answers["both"]
