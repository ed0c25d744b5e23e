"""Decisions by graph operations against NumPy's."""

import numpy as np
import pytest
import tensorflow as tf

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.export import inference_function
from tests.engine.export import export_cases

EDGES = (0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("positive", [None, *export_cases.CLASSES])
@pytest.mark.parametrize("abstain", [None, *EDGES])
def test_decide_in_graph_equals_numpy(positive, abstain):
    """Also exactly at thresholds, and for equally likely classes."""
    random = np.random.default_rng(0)
    ties = [[a, b, 1 - a - b] for a in EDGES for b in EDGES if a + b <= 1]
    probabilities = np.concatenate([random.dirichlet([1, 1, 1], 300), ties]).astype(np.float32)
    for threshold in EDGES if positive else [None]:
        rule = DecisionRule(positive_class=positive, threshold=threshold, abstain=abstain)
        decisions = inference_function.decide(
            rule, export_cases.CLASSES, tf.constant(probabilities)
        )
        assert decisions.dtype == tf.int32
        np.testing.assert_array_equal(
            decisions, decision_rule.decide(rule, export_cases.CLASSES, probabilities)
        )


@pytest.mark.parametrize("name", export_cases.RULES)
def test_inference_function_applies_temperature_and_rule(name):
    source = export_cases.export_source(export_cases.RULES[name])
    images = export_cases.smooth_images(8)
    outputs = inference_function.build(source)(images)
    predicted = outputs["probabilities"], outputs["decision"]
    export_cases.require_predictions(source, images, predicted, 2e-6)


def test_rules_of_export_cases_decide_differently():
    """Otherwise the tests above and those of the formats would prove nothing."""
    images = export_cases.smooth_images(8)
    source = export_cases.export_source(export_cases.RULES["plain"])
    logits = source.loaded_run.model(images.astype(np.float32)).numpy()
    decisions = {}
    for name, rule in export_cases.RULES.items():
        probabilities = decision_rule.probabilities(rule, logits)
        decisions[name] = tuple(decision_rule.decide(rule, export_cases.CLASSES, probabilities))
    assert decisions["plain"] == decisions["tempered"]
    assert len(set(decisions.values())) == len(decisions) - 1
    assert decision_rule.UNCERTAIN in decisions["shy"]
    assert decision_rule.UNCERTAIN in decisions["both"]
