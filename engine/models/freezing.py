"""Where a phase cuts the classifier: a frozen trunk, a trained tail, and the variables between.

A stage or layer name opens that stage and everything after it. What is open and what depends on
it is the tail; all the rest is the trunk, which no gradient ever enters. Several tensors may cross
the cut.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import keras

from engine.core.errors import UserError, nearest
from engine.core.recipe import Phase
from engine.models.classifier import Classifier
from engine.models.keras_internals import input_tensors, nested_layers, producer


@dataclasses.dataclass(frozen=True)
class ModelPartition:
    """A classifier cut in two: logits = head(tail(trunk(pixels))).

    trunk: float32 [B, H, W, 3] -> list of the tensors that cross the cut. Nothing of it trains.
    tail: these tensors -> [B, features], what the last dense layer takes; None where they are that.
    head: [B, features] -> float32 [B, classes].
    variables: the phase's trainable variables, in the model's order.
    open_layers: names of the layers that they belong to.
    tail_layers: names of all layers of the tail and the head.
    """

    trunk: keras.Model
    tail: keras.Model | None
    head: keras.layers.Layer
    variables: list[keras.Variable]
    open_layers: frozenset[str]
    tail_layers: frozenset[str]

    @property
    def frozen(self) -> bool:
        """Whether there is anything in the trunk but the scaling of pixels."""
        return bool(self.trunk.weights)

    def statistics(self, phase: Phase) -> list[keras.Variable]:
        """The running statistics that the phase moves, where it trains with those of each batch."""
        if self.tail is None or phase.batch_norm != "train":
            return []
        return [
            variable
            for layer in nested_layers(self.tail)
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]


def partition_model(classifier: Classifier, trainable: str) -> ModelPartition:
    """Cuts at `trainable`: `head`, `all`, a stage, or a layer that has a name of its own.

    Raises:
      UserError: no such stage or layer, or a name that Keras numbers automatically.
    """
    graph = _Graph(classifier.model)
    opened = graph.operations - _frozen(classifier, graph, trainable)
    live = graph.dependents({op for op in opened if getattr(op, "weights", None)})
    crossing = graph.boundary(live, classifier.vector)
    layers = [layer for layer in classifier.model.layers if layer in opened and layer.weights]
    whole = [tensor is classifier.vector for tensor in crossing] == [True]
    return ModelPartition(
        trunk=keras.Model(classifier.model.inputs[0], crossing),
        tail=None if whole else keras.Model(crossing, classifier.vector),
        head=classifier.head,
        variables=[v for layer in layers for v in layer.trainable_variables],
        open_layers=frozenset(layer.name for layer in layers),
        tail_layers=frozenset(op.name for op in live),
    )


def _frozen(classifier: Classifier, graph: _Graph, trainable: str) -> set:
    """The operations below the cut."""
    if trainable == "all":
        return set()
    if trainable == "head":
        return graph.ancestors([classifier.features])
    stages = list(classifier.stages)
    if trainable in stages:
        place = stages.index(trainable)
        below = [classifier.stages[stages[place - 1]]] if place else []
        return graph.ancestors(below)
    layer = _layer(classifier, trainable)
    return graph.ancestors(input_tensors(layer))


def _layer(classifier: Classifier, name: str) -> keras.layers.Layer:
    layers = {
        layer.name: layer for layer in classifier.model.layers if not has_automatic_name(layer)
    }
    refused = {layer.name for layer in classifier.model.layers if has_automatic_name(layer)}
    if name in refused:
        raise UserError(
            f"trainable={name}: Keras numbers that name by the order of building, so it may mean "
            f"another layer tomorrow; allowed: head, all, {', '.join(classifier.stages)}"
        )
    if name not in layers:
        hint = nearest(name, ["head", "all", *classifier.stages, *layers])
        raise UserError(
            f"trainable={name}: no stage and no layer has that name{hint}; "
            f"allowed: head, all, {', '.join(classifier.stages)}, or a layer"
        )
    return layers[name]


def has_automatic_name(layer: keras.layers.Layer) -> bool:
    """Whether the layer has no name of its own, but its class's and a number, as `conv2d_93`."""
    return bool(re.fullmatch(rf"{snake_case(type(layer).__name__)}(_\d+)?", layer.name))


def snake_case(name: str) -> str:
    """`Conv2D` -> `conv2d`, `BatchNormalization` -> `batch_normalization`, as Keras does it."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


class _Graph:
    """Who computes what from what, in a functional model whose layers are each used once."""

    def __init__(self, model: keras.Model) -> None:
        self.order = list(model.operations)
        self.operations = set(self.order)
        self.inputs = {op: input_tensors(op) for op in self.order}

    def ancestors(self, tensors: Iterable[Any]) -> set:
        """Every operation that the tensors depend on, their own producers among them."""
        found: set = set()
        waiting = [producer(tensor) for tensor in tensors]
        while waiting:
            op = waiting.pop()
            if op not in found:
                found.add(op)
                waiting += [producer(tensor) for tensor in self.inputs[op]]
        return found

    def dependents(self, sources: set) -> set:
        """The sources, and every operation that depends on one of them."""
        live: set = set()
        for op in self.order:  # Keras keeps operations in an order of computation
            if op in sources or any(producer(t) in live for t in self.inputs[op]):
                live.add(op)
        return live

    def boundary(self, live: set, vector: Any) -> list:
        """The tensors that go from operations outside `live` into it, up to the head's input."""
        if producer(vector) not in live:
            return [vector]
        crossing: dict[int, Any] = {}
        for op in self.order:
            if op in live:
                for tensor in self.inputs[op]:
                    if producer(tensor) not in live:
                        crossing[id(tensor)] = tensor
        return [t for t in crossing.values() if not self._follows(t, crossing)]

    def _follows(self, tensor: Any, crossing: dict[int, Any]) -> bool:
        """Whether it is worked out, without weights, from tensors that cross anyway.

        A pooling beside a convolution, as in Inception's blocks: the tail may as well do it.
        """
        op = producer(tensor)
        inputs = self.inputs[op]
        weightless = not getattr(op, "weights", None)
        return weightless and bool(inputs) and all(id(t) in crossing for t in inputs)
