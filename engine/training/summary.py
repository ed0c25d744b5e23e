"""What a run is about to do, in a few lines, before its first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.core.dataset import DataLoader
from engine.core.recipe import Phase, Recipe
from engine.core.text import byte_size
from engine.models.classifier import Classifier
from engine.models.freezing import ModelPartition
from engine.runs.checkpoints import KEEP

SLOTS = {"sgd": 1, "rmsprop": 2, "adam": 2, "adamw": 2, "lion": 1}  # at most, per variable
FLOAT = 4  # bytes


def describe(
    recipe: Recipe, loader: DataLoader, classifier: Classifier, splits: Sequence[ModelPartition]
) -> list[str]:
    """Images, classes, variables and steps by phase, estimated memory and disk."""
    steps = -(-loader.train_examples // recipe.batch_size)
    lines = [
        f"{loader.train_examples:,} images to train on, {loader.validation_examples:,} to validate "
        f"on; {len(loader.classes)} classes: {_short(loader.classes)}",
        f"{recipe.backbone} at {recipe.image_size[0]}x{recipe.image_size[1]}, "
        f"{classifier.model.count_params():,} parameters; {_batches(recipe)}; {_precision(recipe)}",
    ]
    for phase, partition in zip(recipe.phases, splits, strict=True):
        lines.append(
            f"phase {phase.name}: trains {_reach(phase)}, "
            f"{_count(partition.variables):,} parameters "
            f"in {len(partition.variables)} variables; {phase.epochs} x {steps} steps, "
            f"{phase.optimizer}"
        )
    memory = max(
        _memory(recipe, classifier, phase, partition)
        for phase, partition in zip(recipe.phases, splits, strict=True)
    )
    lines.append(
        f"about {byte_size(memory)} of memory and "
        f"{byte_size(_disk(recipe, classifier, splits))} of disk"
    )
    return lines


def _batches(recipe: Recipe) -> str:
    pieces = (
        f", each in {recipe.gradient_accumulation_steps} pieces"
        if recipe.gradient_accumulation_steps > 1
        else ""
    )
    return f"batches of {recipe.batch_size}{pieces}"


def _precision(recipe: Recipe) -> str:
    tried = recipe.precision == "auto"
    return "the fastest sound precision, tried by phase" if tried else recipe.precision


def _reach(phase: Phase) -> str:
    whole = phase.trainable in ("head", "all")
    return phase.trainable if whole else f"{phase.trainable} and above"


def _short(names: Sequence[str], most: int = 8) -> str:
    rest = f", … ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _count(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _memory(recipe: Recipe, classifier: Classifier, phase: Phase, partition: ModelPartition) -> int:
    """Weights, gradients, the optimizer's slots, and what the tail keeps for the way back.

    The tail keeps every layer's output; the trunk only a few at a time, here its two largest.
    """
    opened = _count(partition.variables)
    held = classifier.model.count_params() + opened * (1 + SLOTS[phase.optimizer])
    sizes = {layer.name: _output(layer) for layer in classifier.model.layers}
    kept = sum(size for name, size in sizes.items() if name in partition.tail_layers)
    passing = sum(sorted(sizes.values())[-2:])
    return FLOAT * (held + recipe.batch_size * (kept + passing))


def _output(layer: Any) -> int:
    """Numbers in a layer's output for one example."""
    outputs = layer.output if isinstance(layer.output, list) else [layer.output]
    return sum(math.prod(side or 1 for side in output.shape[1:]) for output in outputs)


def _disk(recipe: Recipe, classifier: Classifier, splits: Sequence[ModelPartition]) -> int:
    """The checkpoints that are kept, one that is being written, and the best model."""
    slots = max(
        SLOTS[phase.optimizer] * _count(partition.variables)
        for phase, partition in zip(recipe.phases, splits, strict=True)
    )
    weights = classifier.model.count_params()
    return FLOAT * ((KEEP + 1) * (weights + slots) + weights)
