"""What every export computes: pixels -> probabilities and decisions, in graph operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from engine import rules, trunk
from engine.export.subject import Subject
from engine.precision import Program
from engine.rules import Rule

PROBABILITIES, DECISION = "probabilities", "decision"
IMAGES = "images"
# The operations of `answer` behind the logits, by TensorFlow Lite's names. They stay float32 in
# every export: of an int8 softmax 256 levels would be left, and ties among the likeliest.
LAST_OPERATIONS = ("SOFTMAX", "TOPK_V2", "STRIDED_SLICE", "GREATER_EQUAL", "LESS")


def make(subject: Subject) -> Any:
    """The model as a `tf.function`: uint8 [B, H, W, 3] -> a dict.

    probabilities: float32 [B, classes]. decision: int32 [B], the index of the answer or -1.
    The weights are fixed, normalisations folded once, and scaling, temperature and rule are within.
    """
    network = trunk.specialise(subject.opened.model, Program())
    spec = tf.TensorSpec([None, *subject.pixels], tf.uint8, name=IMAGES)

    @tf.function(autograph=False, input_signature=[spec])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(tf.cast(images, tf.float32))[0]
        chances = tf.nn.softmax(logits / subject.rule.temperature)
        return {
            PROBABILITIES: chances,
            DECISION: decide(subject.rule, subject.classes, chances),
        }

    return answer


def decide(rule: Rule, classes: Sequence[str], chances: tf.Tensor) -> tf.Tensor:
    """`engine.rules.decide` in graph operations: float32 [B, classes] -> int32 [B]."""
    # The two likeliest. To mask the positive class instead would bring int8 in among the
    # probabilities: TensorFlow Lite wants one scale on both sides of a choice.
    top = tf.math.top_k(chances, min(2, len(classes)))
    found, next_best = top.indices[:, 0], top.indices[:, -1]
    if rule.positive_class is not None:
        positive = list(classes).index(rule.positive_class)
        best_other = tf.where(found == positive, next_best, found)
        taken = chances[:, positive] >= rule.threshold
        found = tf.where(taken, positive, best_other)
    if rule.abstain is not None:
        found = tf.where(top.values[:, 0] < rule.abstain, rules.UNCERTAIN, found)
    return found
