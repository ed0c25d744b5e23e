"""Averages of a phase's weights by name: what `average=` in a phase may be.

The averages themselves are computed by the optimizer (`ema`) and by `engine.training.averaging`.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from engine.core.conversion import convert
from engine.core.errors import UserError, choose
from engine.core.options import check_options, option
from engine.core.recipe import Phase


@dataclasses.dataclass(frozen=True)
class Ema:
    """An exponential moving average, updated after each step: average += (1 - d) (w - average).

    It starts at the weights that the phase starts with. With `warmup`, d is min(decay,
    (1 + step) / (10 + step)) with steps from 0, as in TensorFlow's ExponentialMovingAverage.
    """

    decay: float = option(0.999, minimum=0, below=1)
    warmup: bool = True

    def decay_at(self, step: Any) -> Any:
        """The d of a step: a number, or a float32 scalar."""
        import tensorflow as tf

        if not self.warmup:
            return self.decay
        steps = tf.cast(step, tf.float32)
        return tf.minimum(self.decay, (1 + steps) / (10 + steps))


@dataclasses.dataclass(frozen=True)
class Soup:
    """The greedy soup of the phase's best epochs, `epochs` of them at most.

    Source: Wortsman et al., "Model soups", ICML 2022, recipe 1.
    """

    epochs: int = option(3, minimum=2, maximum=100)


AVERAGES: dict[str, type[Ema | Soup]] = {"ema": Ema, "soup": Soup}


def parse_average(phase: Phase) -> Ema | Soup | None:
    """Returns the phase's `average` with its values, None without.

    Raises:
      UserError: no such average, or a value that it does not take.
    """
    call = phase.average
    if call is None:
        return None
    where = f"phase {phase.name!r}: average={call}: "
    kind = choose(call.name, AVERAGES, f"phase {phase.name!r}: average")
    hints = typing.get_type_hints(kind)
    try:
        values = inspect.signature(kind).bind(*call.args, **call.kwargs).arguments
    except TypeError as error:
        raise UserError(f"{where}{error}; allowed: {call.name}({', '.join(hints)})") from None
    average = kind(
        **{key: convert(value, hints[key], where + key) for key, value in values.items()}
    )
    check_options(average, where)
    return average
