"""Every use of Keras's private API: what to check when Keras is upgraded.

Nothing else in the project touches a name of `keras.src` or an attribute of Keras that starts with
an underscore; tests/engine/models/test_keras_internals.py checks that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any


def producer(tensor: Any) -> Any:
    """Returns the operation that computes a symbolic tensor.

    Keras has no public way from a tensor back to its layer, which cutting and folding need.
    """
    return tensor._keras_history.operation


def input_tensors(operation: Any) -> list:
    """Returns the symbolic tensors that an operation reads, always as a list.

    The public `Operation.input` is a tensor, a list or a nested structure, and an error for an
    operation without inputs.
    """
    return operation._inbound_nodes[0].input_tensors


def consumers(model: Any, operation: Any) -> set:
    """Returns the model's operations that read an operation's output.

    Keras's public API knows no edges forward; folding needs to know that nothing else reads a
    convolution.
    """
    return {node.operation for node in operation._outbound_nodes} & set(model.operations)


def nested_layers(model: Any) -> list:
    """Returns all layers of a model, those of models inside it included.

    The public `Model.layers` has only the outermost.
    """
    return model._flatten_layers(include_self=False)


def to_snake_case(name: str) -> str:
    """Converts as Keras does where it names layers: `Conv2D` -> `conv2d`, `ReLU` -> `re_lu`.

    Whether a name was chosen by an author is nowhere recorded in the public API.
    """
    from keras.src.utils import naming

    return naming.to_snake_case(name)


def run_graph(model: Any, inputs: list, replacements: Mapping[Any, Any]) -> Any:
    """Runs a functional model's graph with other functions in the place of some operations.

    The public `clone_model` replaces layers too, but by copies with variables of their own.
    """
    return model._run_through_graph(
        inputs, operation_fn=lambda operation: replacements.get(operation, operation)
    )


def substituted_values(pairs: Iterable[tuple[Any, Any]]) -> AbstractContextManager:
    """Within the block, variables read as the tensors paired with them.

    The public `stateless_call` does so too, but runs the model as it is, without replacements.
    """
    from keras.src.backend.common.stateless_scope import StatelessScope

    return StatelessScope(state_mapping=list(pairs))


def disable_gradient_reduction(optimizer: Any) -> None:
    """Keeps an optimizer from summing gradients over the devices.

    The train step sums them before clipping by norm and the search for overflows, which need the
    sums; Keras would sum once more after these, and has no public switch.
    """
    optimizer._all_reduce_sum_gradients = list


def scale_learning_rates(optimizer: Any, factors: Sequence[float]) -> None:
    """Multiplies an optimizer's learning rate for each of its variables by a factor.

    Decoupled weight decay scales with it. Keras has one rate for all variables, and no public place
    between the clipping by global norm and the update of one variable.
    """
    kind: Any = type(optimizer)

    class Scaled(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = learning_rate * factors[self._get_variable_index(variable)]
            if self.weight_decay is not None and self._use_weight_decay(variable):
                variable.assign_sub(variable * self.weight_decay * rate)
            super().update_step(gradient, variable, rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            """Nothing: `update_step` decays each variable at its own rate."""

    optimizer.__class__ = Scaled


def average_updates(optimizer: Any, decay: Callable[[Any], Any]) -> None:
    """Adds `averages`, moving averages of the variables, to the state of an optimizer to be built.

    Keras's own (`use_ema`) has a constant decay.

    Args:
      decay: step, from 0 -> d in average += (1 - d) (variable - average).
    """
    kind: Any = type(optimizer)

    class Averaging(kind):
        def build(self, variables: Any) -> None:
            super().build(variables)
            self.averages = self.add_optimizer_variables(variables, "average")
            for average, variable in zip(self.averages, variables, strict=True):
                average.assign(variable)

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient, variable, learning_rate)
            average = self.averages[self._get_variable_index(variable)]
            self.assign_add(average, (variable - average) * (1 - decay(self.iterations)))

    optimizer.__class__ = Averaging


def image_data_generator() -> Any:
    """Returns the class `ImageDataGenerator`, one of the benchmark's baselines.

    Keras 3 has kept it under this path only.
    """
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator
