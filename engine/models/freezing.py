"""Cuts the classifier of a phase into a frozen trunk and a tail that trains.

A stage or layer name opens that stage and everything after it. The open layers and all that depends
on them are the tail; the rest is the trunk, which no gradient enters. Several tensors may cross the
cut.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import keras

from engine.core.errors import UserError, nearest
from engine.core.recipe import Phase, share_of_layers
from engine.models.classifier import Classifier
from engine.models.keras_internals import input_tensors, nested_layers, producer, to_snake_case

WHOLE = ("head", "all", "norms")  # what `trainable` may be beside places of the network
NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


@dataclasses.dataclass(frozen=True)
class ModelPartition:
    """A classifier cut in two: logits = head(tail(trunk(pixels))).

    Attributes:
      trunk: float32 [B, H, W, 3] -> list of the tensors that cross the cut. Nothing of it trains.
      tail: these tensors -> [B, features], the head's input; None where a tensor is that already.
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
        """Whether the trunk has weights: it is more than the scaling of pixels."""
        return bool(self.trunk.weights)

    def statistics(self, phase: Phase) -> list[keras.Variable]:
        """Returns the running statistics that the phase updates, with batch_norm=train."""
        if self.tail is None or phase.batch_norm != "train":
            return []
        return [
            variable
            for layer in nested_layers(self.tail)
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]


def partition_model(classifier: Classifier, trainable: str) -> ModelPartition:
    """Cuts at `trainable`: head, all, norms, a stage, a layer named by its author, or a share.

    Raises:
      UserError: no such stage or layer, or a name that Keras numbers automatically.
    """
    graph = _Graph(classifier.model)
    opened = graph.operations - _operations_below(classifier, graph, trainable)
    if trainable == "norms":
        head = graph.operations - graph.ancestors([classifier.features])
        opened = head | _norms(classifier)
    tail = graph.dependents({op for op in opened if getattr(op, "weights", None)})
    crossing = graph.crossing_tensors(tail, classifier.vector)
    layers = [layer for layer in classifier.model.layers if layer in opened and layer.weights]
    head_only = [tensor is classifier.vector for tensor in crossing] == [True]
    return ModelPartition(
        trunk=keras.Model(classifier.model.inputs[0], crossing),
        tail=None if head_only else keras.Model(crossing, classifier.vector),
        head=classifier.head,
        variables=[
            variable
            for layer in layers
            for inner in (_norms_in(layer) if trainable == "norms" else ()) or [layer]
            for variable in inner.trainable_variables
        ],
        open_layers=frozenset(layer.name for layer in layers),
        tail_layers=frozenset(op.name for op in tail),
    )


def require_trainable(classifier: Classifier, trainable: str) -> None:
    """Raises:
    UserError: as `partition_model`.
    """
    if trainable == "norms":
        _norms(classifier)
    elif opened_stage(classifier, trainable) not in (*WHOLE, *classifier.stages):
        _named_layer(classifier, trainable)


def rate_factors(
    classifier: Classifier, variables: Iterable[keras.Variable], layer_decay: float | None
) -> list[float] | None:
    """Returns a factor on the learning rate for each variable: layer_decay ** k; None for None.

    k is 0 in the head, 1 in the top stage, 2 in the stage below, and so on. Source: Bao et al.,
    "BEiT", ICLR 2022, appendix H, as timm and AutoGluon have it, whose blocks are stages here.
    """
    if layer_decay is None:
        return None
    graph = _Graph(classifier.model)
    below = [graph.ancestors([output]) for output in classifier.stages.values()]
    stages = {
        id(variable): sum(operation in stage for stage in below)
        for operation in graph.order
        for variable in getattr(operation, "weights", ())
    }
    return [layer_decay ** stages[id(variable)] for variable in variables]


def opened_stage(classifier: Classifier, trainable: str) -> str:
    """Returns the stage below which about 1 - share of the layers are; other names as they are.

    Layers without weights do not count.
    """
    share = share_of_layers(trainable)
    if share is None:
        return trainable
    graph, stages = _Graph(classifier.model), list(classifier.stages)

    def layers_below(tensors: Iterable[Any]) -> int:
        return sum(bool(getattr(op, "weights", None)) for op in graph.ancestors(tensors))

    closed = (1 - share) * layers_below([classifier.features])
    gaps = [abs(layers_below([classifier.stages[name]]) - closed) for name in stages[:-1]]
    return stages[gaps.index(min(gaps)) + 1]


def _operations_below(classifier: Classifier, graph: _Graph, trainable: str) -> set:
    """The operations below the cut."""
    if trainable in ("all", "norms"):
        return set()
    if trainable == "head":
        return graph.ancestors([classifier.features])
    stages = list(classifier.stages)
    trainable = opened_stage(classifier, trainable)
    if trainable in stages:
        index = stages.index(trainable)
        return graph.ancestors([classifier.stages[name] for name in stages[:index][-1:]])
    return graph.ancestors(input_tensors(_named_layer(classifier, trainable)))


def _norms(classifier: Classifier) -> set:
    """The layers of `trainable=norms`.

    Raises:
      UserError: there are none.
    """
    norms = {layer for layer in classifier.model.layers if _norms_in(layer)}
    if not norms:
        raise UserError(
            f"trainable=norms: {classifier.model.name} has no normalization layers; "
            f"allowed: head, all, {', '.join(classifier.stages)}"
        )
    return norms


def _norms_in(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer itself, or those inside: ConvNeXt has some in a Sequential."""
    inner = nested_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return [one for one in inner if isinstance(one, NORMALIZATIONS)]


def _named_layer(classifier: Classifier, name: str) -> keras.layers.Layer:
    layers = {layer.name: layer for layer in classifier.model.layers}
    if name in layers and has_automatic_name(layers[name]):
        raise UserError(
            f"trainable={name}: Keras numbers that name by the order of building, so it may mean "
            f"another layer tomorrow; allowed: {', '.join((*WHOLE, *classifier.stages))}"
        )
    if name not in layers:
        named = [layer.name for layer in layers.values() if not has_automatic_name(layer)]
        hint = nearest(name, [*WHOLE, *classifier.stages, *named])
        raise UserError(
            f"trainable={name}: no stage and no layer has that name{hint}; "
            f"allowed: {', '.join((*WHOLE, *classifier.stages))}, or a layer"
        )
    return layers[name]


def has_automatic_name(layer: keras.layers.Layer) -> bool:
    """Whether Keras named the layer, by its class and a number, as in `conv2d_93`."""
    return bool(re.fullmatch(rf"{to_snake_case(type(layer).__name__)}(_\d+)?", layer.name))


class _Graph:
    """The operations of a functional model whose layers are each used once."""

    def __init__(self, model: keras.Model) -> None:
        self.order = list(model.operations)
        self.operations = set(self.order)
        self.inputs = {op: input_tensors(op) for op in self.order}

    def ancestors(self, tensors: Iterable[Any]) -> set:
        """Returns every operation that the tensors depend on, including their producers."""
        ancestors: set = set()
        waiting = [producer(tensor) for tensor in tensors]
        while waiting:
            op = waiting.pop()
            if op not in ancestors:
                ancestors.add(op)
                waiting += [producer(tensor) for tensor in self.inputs[op]]
        return ancestors

    def dependents(self, sources: set) -> set:
        """Returns the sources and every operation that depends on one of them."""
        dependents: set = set()
        for op in self.order:  # Keras keeps operations in an order of computation
            if op in sources or any(producer(t) in dependents for t in self.inputs[op]):
                dependents.add(op)
        return dependents

    def crossing_tensors(self, tail: set, vector: Any) -> list:
        """Returns the tensors that enter the tail from outside, up to the head's input."""
        if producer(vector) not in tail:
            return [vector]
        crossing: dict[int, Any] = {}
        for op in self.order:
            if op in tail:
                for tensor in self.inputs[op]:
                    if producer(tensor) not in tail:
                        crossing[id(tensor)] = tensor
        return [t for t in crossing.values() if not self._is_derived(t, crossing)]

    def _is_derived(self, tensor: Any, crossing: dict[int, Any]) -> bool:
        """Whether a tensor is computed, without weights, from others that cross anyway.

        The tail can as well compute it: a pooling beside a convolution, as in Inception's blocks.
        """
        op = producer(tensor)
        inputs = self.inputs[op]
        weightless = not getattr(op, "weights", None)
        return weightless and bool(inputs) and all(id(t) in crossing for t in inputs)
