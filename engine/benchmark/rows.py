"""One measurement: the speed of each stage and of the whole, and what stands in its way.

Speeds are in images a second. An epoch passes four stages: the *input* reads and decodes, the
*augmentation* changes the images, the frozen *trunk* and the trained *tail* compute.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from engine.core.errors import choose, require

STAGES = {  # what each is called in a sentence
    "input": "the input",
    "augment": "the augmentation",
    "trunk": "the trunk",
    "tail": "the tail",
}

# What makes a stage faster, where all share the cores and where a GPU does all but the input.
SMALLER = "a smaller --backbone or --image_size"
FEWER_OPEN = "fewer open stages (a later trainable=)"
ON_CORES = {
    "input": ("--cache=pixels", "smaller files", "more cores"),
    "augment": ("fewer or cheaper steps in --augment", "more cores", "a GPU"),
    "trunk": ("--cache=features with views=K", "--precision=auto", SMALLER, "a GPU"),
    "tail": (FEWER_OPEN, SMALLER, "more cores", "a GPU"),
}
ON_GPU = {
    "input": ("--cache=pixels", "smaller files", "more cores"),
    "augment": ("fewer or cheaper steps in --augment",),
    "trunk": ("--cache=features with views=K", "--precision=auto", SMALLER),
    "tail": ("a larger --batch_size", "--precision=mixed_bfloat16", FEWER_OPEN, SMALLER),
}

PREDICT = "predict"  # in the place of a phase, where images are answered and nothing is trained

SLOWEST, FASTEST = 1e-6, 1e12  # images/s; what lies outside was not measured
LOSS_WORTH_A_WORD = 0.1
LONGEST_NAME = 200


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second: the median of some repeats, and their lower and upper quartile."""

    median: float
    low: float
    high: float
    repeats: int

    def __post_init__(self) -> None:
        require(
            SLOWEST <= self.low <= self.median <= self.high < FASTEST,
            f"low={self.low}, median={self.median}, high={self.high}; "
            "allowed: rates above 0 in rising order",
        )
        require(self.repeats > 0, f"repeats={self.repeats}; allowed: 1 or more")

    @classmethod
    def of(cls, samples: Sequence[float]) -> Rate:
        """The rate that the samples, one of each repeat, speak for.

        Raises:
          UserError: there is no sample, or one that is no rate.
        """
        require(len(samples) > 0, "repeats=0; allowed: 1 or more")
        values = [float(sample) for sample in samples]
        if len(values) == 1:
            return cls(values[0], values[0], values[0], repeats=1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, repeats=len(values))

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured for one backbone at one size, batch, precision and phase.

    `stages` has a rate for each stage that occurs. `shares_cores` says that all of them run on the
    same cores, one after the other; else the input has the cores and the others share a GPU.
    `image_size` is (height, width) in pixels, `peak_memory` in bytes for `host`, `gpu_0`, …
    """

    backbone: str
    image_size: tuple[int, int]
    batch_size: int
    precision: str
    phase: str
    stages: Mapping[str, Rate]
    whole: Rate
    shares_cores: bool
    peak_memory: Mapping[str, int]

    def __post_init__(self) -> None:
        require(bool(self.stages), f"stages is empty; allowed: {', '.join(STAGES)}")
        for name in self.stages:
            choose(name, STAGES, "stage")
        for key in ("backbone", "precision", "phase"):
            require_name(getattr(self, key), key)
        for value in (self.batch_size, *self.image_size):
            require(0 < value < 2**31, f"a size is {value}; allowed: 1 or more")
        for name, size in self.peak_memory.items():
            require_name(name, "peak_memory: key")
            right = type(size) is int and 0 <= size < 2**63
            require(right, f"peak_memory of {name}={size!r}; allowed: bytes")


def require_name(value: Any, what: str) -> None:
    """A name stands in tables and images, so it has to be one short line."""
    good = isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME
    require(
        good, f"{what}={value!r:.{LONGEST_NAME}}; allowed: one line of 1 to {LONGEST_NAME} letters"
    )


def allowed(row: Row) -> float:
    """Images a second that the stages allow: what the slowest device can do.

    A device needs the sum of the times of its stages. Where all share the cores, there is one.
    """
    return 1 / max(_seconds(stages) for stages in _devices(row))


def efficiency(row: Row) -> float:
    """The whole as a share of what its stages allow; little above 1 where they overlap well."""
    return row.whole.median / allowed(row)


def _devices(row: Row) -> list[dict[str, Rate]]:
    """The stages by the device that they run on; a device without any is left out."""
    if row.shares_cores:
        return [dict(row.stages)]
    host = {name: rate for name, rate in row.stages.items() if name == "input"}
    gpu = {name: rate for name, rate in row.stages.items() if name != "input"}
    return [stages for stages in (host, gpu) if stages]


def _seconds(stages: Mapping[str, Rate]) -> float:
    """Per image, for stages that run one after the other."""
    return sum(1 / rate.median for rate in stages.values())


def explain(row: Row) -> str:
    """In words: which stage is the limit, by how much, what would help, and what is lost."""
    slowest = max(_devices(row), key=_seconds)
    limit = min(slowest, key=lambda name: slowest[name].median)
    text = (
        f"{STAGES[limit].capitalize()} is the limit: {_by_how_much(row, limit)}. "
        f"What helps: {', '.join(_advice(row, limit))}."
    )
    reached = efficiency(row)
    if reached < 1 - LOSS_WORTH_A_WORD:
        text += (
            f" The whole reaches {reached:.0%} of what the stages allow; the remaining "
            f"{1 - reached:.0%} is lost between them."
        )
    return text


def _by_how_much(row: Row, limit: str) -> str:
    """The limit's share of its device's time, and by how much the other device is faster."""
    *others, busy = sorted(_devices(row), key=_seconds)
    share = 1 / row.stages[limit].median / _seconds(busy)
    if not others:
        owner = "these cores" if row.shares_cores or limit == "input" else "the GPU"
        return f"it takes {share:.0%} of the time that the stages need on {owner}"
    times = f"{_seconds(busy) / _seconds(others[0]):.1f} times as many images"
    if limit == "input":
        return f"the GPU could take {times}"
    return f"it takes {share:.0%} of the GPU's time, and the input could give {times}"


def _advice(row: Row, limit: str) -> list[str]:
    """What helps this stage; a precision only where the slowest is in use, and a cache in training.

    A prediction sees each image once.
    """
    advice = (ON_CORES if row.shares_cores else ON_GPU)[limit]
    cached, plain = row.phase != PREDICT, row.precision == "float32"
    useful = {"--cache": cached, "--precision": plain}
    return [words for words in advice if useful.get(words.partition("=")[0], True)]
