"""Describes in a few lines what a run is about to do."""

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
    recipe: Recipe, loader: DataLoader, classifier: Classifier, partitions: Sequence[ModelPartition]
) -> list[str]:
    """Returns lines on images, classes, variables and steps by phase, estimated memory and disk."""
    steps = -(-loader.train_examples // recipe.batch_size)
    lines = [
        f"{loader.train_examples:,} training images, {loader.validation_examples:,} validation "
        f"images; {len(loader.classes)} classes: {_shorten(loader.classes)}",
        f"{recipe.backbone} at {recipe.image_size[0]}x{recipe.image_size[1]}, "
        f"{classifier.model.count_params():,} parameters; {_batches(recipe)}; {_precision(recipe)}",
    ]
    for phase, partition in zip(recipe.phases, partitions, strict=True):
        lines.append(
            f"phase {phase.name}: trains {_describe_trainable(phase)}, "
            f"{_count(partition.variables):,} parameters "
            f"in {len(partition.variables)} variables; {phase.epochs} x {steps} steps, "
            f"{phase.optimizer}"
        )
    memory = max(
        _memory(recipe, classifier, phase, partition)
        for phase, partition in zip(recipe.phases, partitions, strict=True)
    )
    lines.append(
        f"about {byte_size(memory)} of memory and "
        f"{byte_size(_disk(recipe, classifier, partitions))} of disk"
    )
    return lines


def _batches(recipe: Recipe) -> str:
    count = recipe.gradient_accumulation_steps
    microbatches = f", each in {count} microbatches" if count > 1 else ""
    return f"batches of {recipe.batch_size}{microbatches}"


def _precision(recipe: Recipe) -> str:
    if recipe.precision == "auto":
        return "the fastest precision within tolerance, measured for each phase"
    return recipe.precision


def _describe_trainable(phase: Phase) -> str:
    whole = phase.trainable in ("head", "all")
    return phase.trainable if whole else f"{phase.trainable} and above"


def _shorten(names: Sequence[str], limit: int = 8) -> str:
    rest = f", … ({len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _count(variables: Sequence[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _memory(recipe: Recipe, classifier: Classifier, phase: Phase, partition: ModelPartition) -> int:
    """Estimates bytes: weights, gradients, optimizer slots and activations.

    The tail keeps every layer's output for the backward pass; the trunk only a few at a time, here
    its two largest.
    """
    trainable = _count(partition.variables)
    parameters = classifier.model.count_params() + trainable * (1 + SLOTS[phase.optimizer])
    sizes = {layer.name: _output(layer) for layer in classifier.model.layers}
    tail = sum(size for name, size in sizes.items() if name in partition.tail_layers)
    trunk = sum(sorted(sizes.values())[-2:])
    return FLOAT * (parameters + recipe.batch_size * (tail + trunk))


def _output(layer: Any) -> int:
    """Returns the size of a layer's output for one example, in numbers."""
    outputs = layer.output if isinstance(layer.output, list) else [layer.output]
    return sum(math.prod(side or 1 for side in output.shape[1:]) for output in outputs)


def _disk(recipe: Recipe, classifier: Classifier, partitions: Sequence[ModelPartition]) -> int:
    """Estimates bytes: the checkpoints, one that is being written, and the best model."""
    slots = max(
        SLOTS[phase.optimizer] * _count(partition.variables)
        for phase, partition in zip(recipe.phases, partitions, strict=True)
    )
    weights = classifier.model.count_params()
    return FLOAT * ((KEEP + 1) * (weights + slots) + weights)
