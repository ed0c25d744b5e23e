"""Learning-rate schedules: pure functions from the step of a phase to a factor.

An entry of SCHEDULES is called as `schedule(progress, **options)`; `progress` is the fraction done
of the phase's steps after the warm-up, 0 to 1, and the result a factor on the phase's learning
rate. `learning_rate` adds the warm-up, which any schedule may have.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def linear(progress: float, end: float = 0.0) -> float:
    """Falls linearly from 1 to `end`."""
    return 1 + (end - 1) * progress


def cosine(progress: float, end: float = 0.0) -> float:
    """Falls from 1 to `end` on half a cosine: end + (1 - end) (1 + cos(pi progress)) / 2.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def step(progress: float, drops: int = 3, factor: float = 0.1) -> float:
    """Multiplies by `factor` at `drops` steps that divide the phase into equal parts."""
    parts = round(progress * (drops + 1), 9)  # 15/22 of 22 would else be just below 15
    return factor ** min(math.floor(parts), drops)


def one_cycle(progress: float, rise: float = 0.3, start: float = 0.04, end: float = 4e-6) -> float:
    """Rises from `start` to 1 in the first `rise` of the phase, then falls to `end`, on cosines.

    Source: Smith and Topin, "Super-Convergence", 2018; the defaults are those of PyTorch's
    OneCycleLR (1/25 at the start, 1/25 of 1e-4 at the end).
    """
    if progress < rise or rise == 1:
        return cosine(1 - progress / rise, start)
    return cosine((progress - rise) / (1 - rise), end)


def learning_rate(
    schedule: Callable[..., float], peak: float, steps: int, options: dict, warmup_steps: int = 0
) -> Callable[[int], float]:
    """Returns the learning rate as a function of a phase's step, 0 to steps - 1.

    During warm-up it rises linearly, peak (step + 1) / warmup_steps, and the schedule starts after
    it. Steps beyond the end keep the last value.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        after, length = step - warmup_steps, max(steps - warmup_steps - 1, 1)
        return peak * schedule(min(after / length, 1.0), **options)

    return rate


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "step": step,
    "one_cycle": one_cycle,
}
