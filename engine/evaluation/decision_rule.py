"""The decision rule, saved with the model: how logits become probabilities and a decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core.conversion import convert
from engine.core.errors import choose, require
from engine.core.options import check_options, option

UNCERTAIN = -1  # in place of a class index


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """How logits [N, classes] are read.

    temperature: divides the logits before the softmax (Guo et al. 2017).
    positive_class, threshold: the decision is that class wherever its probability is at least the
      threshold, and never elsewhere; without them it is the most likely class.
    min_recall: the recall of the positive class for which the threshold was fitted.
    abstain: the decision is "uncertain" where no class has at least this probability.
    """

    temperature: float = option(1.0, minimum=0.001, maximum=1000)  # fitted ones lie well within
    positive_class: str | None = None
    threshold: float | None = option(None, minimum=0, maximum=1)
    min_recall: float | None = option(None, minimum=0, maximum=1)
    abstain: float | None = option(None, minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check_options(self)
        require(
            (self.positive_class is None) == (self.threshold is None),
            "positive_class and threshold go together; give both or neither",
        )

    @property
    def overrides_argmax(self) -> bool:
        """Whether a decision can differ from the most likely class."""
        return self.positive_class is not None or self.abstain is not None


DEFAULT_RULE = DecisionRule()  # softmax and the most likely class


def parse_rule(values: Any, classes: Sequence[str]) -> DecisionRule:
    """Returns the rule of a model with these classes.

    Args:
      values: as JSON holds it; None for a model without a rule.
      classes: the class names.

    Raises:
      UserError: the values are not a rule, or its class is not among these.
    """
    rule = convert({} if values is None else values, DecisionRule, "rule")
    if rule.positive_class is not None:
        choose(rule.positive_class, dict.fromkeys(classes), "positive_class")
    return rule


def format_threshold(share: float) -> str:
    """Formats a threshold with four decimals, or as many as distinguish it from 0 and 1."""
    texts = (f"{share:.{decimals}f}" for decimals in range(4, 17))
    return next((text for text in texts if float(text) not in (0, 1)), f"{share:g}")


def log_probabilities(logits: Any, temperature: float = 1.0) -> np.ndarray:
    """Returns the log softmax of logits / temperature, float64 [N, classes]."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def probabilities(rule: DecisionRule, logits: Any) -> np.ndarray:
    """Returns the probabilities by the rule's temperature, float64 [N, classes]."""
    return np.exp(log_probabilities(logits, rule.temperature))


def decide(rule: DecisionRule, classes: Sequence[str], probabilities: np.ndarray) -> np.ndarray:
    """Returns the class index of each decision, or UNCERTAIN; int64 [N].

    Args:
      rule: the rule.
      classes: the class names.
      probabilities: [N, classes], by this rule's temperature.
    """
    probabilities = np.asarray(probabilities)
    decisions = probabilities.argmax(-1)
    if rule.positive_class is not None:
        positive = list(classes).index(rule.positive_class)
        others = np.where(np.arange(len(classes)) == positive, -1.0, probabilities)
        is_positive = probabilities[:, positive] >= rule.threshold
        decisions = np.where(is_positive, positive, others.argmax(-1))
    if rule.abstain is not None:
        decisions = np.where(probabilities.max(-1) < rule.abstain, UNCERTAIN, decisions)
    return decisions
