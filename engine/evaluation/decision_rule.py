"""How a model's logits are read: as probabilities, and as an answer. Saved with the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core.conversion import convert
from engine.core.errors import choose, require

UNCERTAIN = -1  # in the place of a class
_LEAST, _MOST = 1e-3, 1e3  # temperatures; those that are fitted lie well within


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """What is done with logits [N, classes].

    temperature: what logits are divided by before the softmax (Guo et al. 2017).
    positive_class, threshold: that class is the answer wherever its probability is the threshold or
      more, and nowhere else; without them the likeliest class is.
    min_recall: the share of the positive class that the threshold was made to find.
    abstain: an answer is uncertain where no class has a probability of that much.
    """

    temperature: float = 1.0
    positive_class: str | None = None
    threshold: float | None = None
    min_recall: float | None = None
    abstain: float | None = None

    def __post_init__(self) -> None:
        require(
            _LEAST <= self.temperature <= _MOST,
            f"temperature={self.temperature}; allowed: {_LEAST:g} to {_MOST:g}",
        )
        for key in ("threshold", "min_recall", "abstain"):
            value = getattr(self, key)
            require(value is None or 0 <= value <= 1, f"{key}={value}; allowed: 0 to 1")
        require(
            (self.positive_class is None) == (self.threshold is None),
            "positive_class and threshold go together; give both or neither",
        )

    @property
    def decides(self) -> bool:
        """Whether an answer may be another than the likeliest class."""
        return self.positive_class is not None or self.abstain is not None


PLAIN = DecisionRule()  # the softmax, and the likeliest class


def parse(values: Any, classes: Sequence[str]) -> DecisionRule:
    """The rule of a model with these classes, as JSON has it; None for a model that has none.

    Raises:
      UserError: it is no rule, or of other classes.
    """
    rule = convert({} if values is None else values, DecisionRule, "rule")
    if rule.positive_class is not None:
        choose(rule.positive_class, dict.fromkeys(classes), "positive_class")
    return rule


def in_digits(share: float) -> str:
    """A threshold in four decimals, or in as many as tell it from 0 and 1."""
    texts = (f"{share:.{decimals}f}" for decimals in range(4, 17))
    return next((text for text in texts if float(text) not in (0, 1)), f"{share:g}")


def log_probabilities(logits: Any, temperature: float = 1.0) -> np.ndarray:
    """float64 [N, classes], from logits [N, classes]."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def probabilities(rule: DecisionRule, logits: Any) -> np.ndarray:
    """float64 [N, classes]."""
    return np.exp(log_probabilities(logits, rule.temperature))


def decide(rule: DecisionRule, classes: Sequence[str], chances: np.ndarray) -> np.ndarray:
    """The index of each answer, or UNCERTAIN; int64 [N].

    chances: probabilities [N, classes], by this rule.
    """
    chances = np.asarray(chances)
    found = chances.argmax(-1)
    if rule.positive_class is not None:
        positive = list(classes).index(rule.positive_class)
        others = np.where(np.arange(len(classes)) == positive, -1.0, chances)
        taken = chances[:, positive] >= rule.threshold
        found = np.where(taken, positive, others.argmax(-1))
    if rule.abstain is not None:
        found = np.where(chances.max(-1) < rule.abstain, UNCERTAIN, found)
    return found
