"""Optimizers by name. Each phase builds its own, over the variables of that phase only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.core.recipe import Phase
from engine.optim.averages import Ema, parse_average

SOLVER = "lbfgs"  # solves the head at once; all others take steps


def sgd(common: dict, momentum: float = 0.0, nesterov: bool = False) -> Any:
    import keras

    return keras.optimizers.SGD(momentum=momentum, nesterov=nesterov, **common)


def rmsprop(common: dict, rho: float = 0.9, momentum: float = 0.0, epsilon: float = 1e-7) -> Any:
    import keras

    return keras.optimizers.RMSprop(rho=rho, momentum=momentum, epsilon=epsilon, **common)


def adam(common: dict, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Any:
    import keras

    return keras.optimizers.Adam(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **common)


def adamw(common: dict, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Any:
    """Adam with a weight decay of 0.01 by default, as in PyTorch."""
    decay = 0.01 if common["weight_decay"] is None else common["weight_decay"]
    return adam({**common, "weight_decay": decay}, beta_1, beta_2, epsilon)


def lion(common: dict, beta_1: float = 0.9, beta_2: float = 0.99) -> Any:
    import keras

    return keras.optimizers.Lion(beta_1=beta_1, beta_2=beta_2, **common)


def lbfgs(common: dict, l2: float = 0.0, folds: int = 5) -> Any:
    """Solves the head, without steps: `engine.optim.lbfgs`; l2 = 0 by cross-validation.

    What is returned stands for it where a step is tried out or measured.
    """
    return sgd(common)


def build(
    phase: Phase,
    options: dict,
    variables: Sequence[Any],
    scale_loss: bool,
    rate_factors: Sequence[float] | None = None,
) -> Any:
    """Builds the phase's optimizer over its variables.

    Weight decay is decoupled (Loshchilov and Hutter, 2019: each step subtracts learning_rate times
    weight_decay times the variable) for every optimizer, and excludes biases and norms, that is
    every variable of fewer than two dimensions. With `average=ema` its state has the averages too.

    Args:
      options: of the optimizer alone; see `options.phase_options`.
      scale_loss: whether to scale the loss dynamically, as float16 needs.
      rate_factors: of each variable's learning rate, weight decay included; None for 1.
    """
    import keras

    from engine.models import keras_internals

    common = {
        "learning_rate": phase.learning_rate,
        "global_clipnorm": phase.clip_global_norm,
        "weight_decay": phase.weight_decay,
    }
    optimizer = OPTIMIZERS[phase.optimizer](common, **options)
    if optimizer.weight_decay:
        excluded = [variable for variable in variables if len(variable.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=excluded)
    keras_internals.disable_gradient_reduction(optimizer)
    if rate_factors is not None:
        keras_internals.scale_learning_rates(optimizer, rate_factors)
    average = parse_average(phase)
    if isinstance(average, Ema):
        keras_internals.average_updates(optimizer, average.decay_at)
    if scale_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adamw,
    "lion": lion,
    SOLVER: lbfgs,
}
