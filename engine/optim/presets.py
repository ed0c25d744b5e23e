"""The presets: rules from facts about the images to a recipe, with the evidence beside each.

Figures are of EfficientNet-Lite0 at 224 pixels on two CPU cores. "Groceries" are 2,640 training
photographs in 81 classes, measured on 2,485 others; "cats and dogs" 2,000 photographs; "solar
cells" 1,772 images in two classes. `docs/recipes.md` has the same table.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from engine.core.recipe import Phase, parse_phase
from engine.optim.optimizers import SOLVER

PRESETS = ("standard", "quick", "thorough")
BATCH_SIZE = 32
# Of activations and gradients, for each pixel of an image in a batch that trains.
BYTES_PER_PIXEL = 2000


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the rules know.

    images: to train on. memory: of the device that trains, in bytes. hidden_units: as the recipe's.
    """

    preset: str
    images: int
    classes: int
    backbone: str
    image_size: tuple[int, int]
    memory: int
    hidden_units: int = 0

    @property
    def per_class(self) -> float:
        return self.images / max(self.classes, 1)

    @property
    def microbatches(self) -> int:
        """The least power of two for which a microbatch takes at most half of the memory."""
        needed = BATCH_SIZE * BYTES_PER_PIXEL * self.image_size[0] * self.image_size[1]
        options = (1, 2, 4, 8, 16)
        return next((n for n in options if needed / n <= self.memory / 2), BATCH_SIZE)


class Rule(NamedTuple):
    """A value, and the facts that it is for: the first rule that applies is followed."""

    value: Any
    condition: str
    applies: Callable[[Facts], bool]
    evidence: str


def _up_to(images: int, epochs: int, evidence: str, per_class: float = float("inf")) -> Rule:
    condition = f"up to {images:,} images"
    condition += f", up to {per_class:g} of a class" if per_class < float("inf") else ""
    return Rule(
        epochs, condition, lambda f: f.images <= images and f.per_class <= per_class, evidence
    )


def _else(value: Any, evidence: str) -> Rule:
    return Rule(value, "otherwise", lambda _: True, evidence)


def _of_backbone(pattern: str, value: float, evidence: str) -> Rule:
    condition = pattern.replace("|", ", ")
    return Rule(value, condition, lambda f: bool(re.match(pattern, f.backbone)), evidence)


_STEPS = "BiT-HyperRule takes as many steps however few images there are; not measured here"
_LARGE = "steps grow more slowly than images, as in BiT-HyperRule; not measured here"
_STRONG = (
    "rotate(20)|shift(0.15)|shear(0.1)|zoom(0.3)|flip|brightness(0.2)|contrast(0.2)|saturation(0.2)"
)

RULES: dict[str, tuple[Rule, ...]] = {
    "head": (
        Rule(
            "head(epochs=3, optimizer=adamw)",
            "a hidden layer",
            lambda f: f.hidden_units > 0,
            "nothing to solve: its loss is not convex",
        ),
        Rule(
            f"head(optimizer={SOLVER})",
            "up to 100,000 images",
            lambda f: f.images <= 100_000,
            "cats and dogs 98.8 % in 1.3 s, groceries 67 % in 23 s, on validation",
        ),
        _else("head(epochs=1, optimizer=adamw, views=1)", "the features may not fit in memory"),
    ),
    "epochs": (
        _up_to(100, 80, _STEPS),
        _up_to(250, 50, _STEPS),
        _up_to(500, 30, _STEPS),
        _up_to(1_500, 20, _STEPS),
        _up_to(5_000, 14, "groceries: 4 epochs in all 82.9 %, 10 86.1 %, 17 89.3 %", 100),
        _up_to(5_000, 10, "solar cells: 90.99 % after 1 + 10, settled by then"),
        _up_to(20_000, 8, _LARGE),
        _up_to(100_000, 5, _LARGE),
        _else(3, _LARGE),
    ),
    "times the epochs": (
        Rule(2, "thorough", lambda f: f.preset == "thorough", "for who can wait; not measured"),
        _else(1, "measured with those above"),
    ),
    "trainable": (
        Rule("all", "thorough", lambda f: f.preset == "thorough", "AutoMM, with its layer decay"),
        _else(
            "0.7",
            "block4 of Lite0: groceries 82.9 % after 1 + 3 epochs; the top two stages, by SGD at "
            "1e-4, 66.5 % after 2 + 2",
        ),
    ),
    "layer_decay": (
        Rule(0.9, "thorough", lambda f: f.preset == "thorough", "AutoMM"),
        _else(None, "groceries 89.3 % without"),
    ),
    "learning_rate": (
        _of_backbone("convnext|vgg", 1e-4, "no BatchNormalization: low, as published; unmeasured"),
        Rule(
            7e-4,
            "Lite or MobileNet, up to 100 images of a class",
            lambda f: _small(f) and f.per_class <= 100,
            "groceries 89.3 %; 86.1 % at 5e-4, with fewer epochs",
        ),
        Rule(4e-4, "Lite or MobileNet, more", lambda f: _small(f), "solar cells 90.99 %"),
        _else(3e-4, "larger networks at half the rate; not measured here"),
    ),
    "weight_decay": (_else(5e-2, "groceries 89.3 %"),),
    "warm-up": (_else(0.1, "share of the epochs: AutoMM"),),
    "schedule": (_else("cosine", "AutoMM; every figure above"),),
    "augment": (
        Rule(_STRONG, "up to 20,000 images", lambda f: f.images <= 20_000, "groceries 89.3 %"),
        _else("rotate(10)|shift(0.1)|zoom(0.2)|flip", "few epochs repeat little; not measured"),
    ),
    "dropout": (_else(0.2, "groceries 89.3 %"),),
    "label_smoothing": (
        Rule(0.1, "10 classes or more", lambda f: f.classes >= 10, "groceries 89.3 %"),
        _else(0.05, "solar cells 90.99 %"),
    ),
    "skip_if_solved": (
        Rule(None, "thorough", lambda f: f.preset == "thorough", "fine-tunes in any case"),
        _else(0.97, "cats and dogs: the head 98.8 %, fine-tuned as well 98.7 %"),
    ),
}


def _small(facts: Facts) -> bool:
    return bool(re.match("efficientnet_lite|mobilenet", facts.backbone))


def choose_recipe(
    facts: Facts, epochs: int | None = None, learning_rate: float | None = None
) -> dict[str, Any]:
    """Returns the fields of the recipe that a preset chooses, but `augment` as text.

    Args:
      epochs, learning_rate: of the fine-tune phase, in place of those of the rules; the head's, and
        the warm-up, scale with them.
    """
    value = {
        name: next(rule.value for rule in rules if rule.applies(facts))
        for name, rules in RULES.items()
    }
    usual = value["epochs"] * value["times the epochs"]
    epochs, rate = epochs or usual, learning_rate or value["learning_rate"]
    head = parse_phase(value["head"])
    if head.optimizer != SOLVER:
        scaled = max(1, round(head.epochs * epochs / usual))
        head_rate = head.learning_rate * (rate / value["learning_rate"])
        head = dataclasses.replace(head, epochs=scaled, learning_rate=head_rate)
    fine_tune = Phase(
        "fine_tune",
        epochs=epochs,
        optimizer="adamw",
        learning_rate=rate,
        options={"warmup_epochs": round(value["warm-up"] * epochs, 2)},
        **{name: value[name] for name in ("trainable", "schedule", "weight_decay", "layer_decay")},
        skip_if_solved=value["skip_if_solved"],
    )
    phases = (head,) if facts.preset == "quick" else (head, fine_tune)
    solved = phases[-1].optimizer == SOLVER
    return {
        "phases": phases,
        "augment": "none" if solved else value["augment"],
        "dropout": 0.0 if solved else value["dropout"],
        "label_smoothing": 0.0 if solved else value["label_smoothing"],
        "batch_size": BATCH_SIZE,
        "gradient_accumulation_steps": facts.microbatches,
    }


def table() -> Iterator[str]:
    """Yields the rules as lines of a table in Markdown."""
    yield "| what | for | value | evidence |"
    yield "|---|---|---|---|"
    for name, rules in RULES.items():
        for rule in rules:
            value = str(rule.value).replace("|", " ")
            yield f"| {name} | {rule.condition} | {value} | {rule.evidence} |"
