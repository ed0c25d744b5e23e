"""One measurement: the speed of each stage and of the whole, and which stage is the bottleneck.

Speeds are in images/s. A step has four stages: the *input* reads and decodes, the *augmentation*
transforms the images, the frozen *trunk* and the trained *tail* compute.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from engine.core.errors import choose, require

STAGES = {  # as named in sentences
    "input": "the input",
    "augment": "the augmentation",
    "trunk": "the trunk",
    "tail": "the tail",
}

# What speeds a stage up, on every machine; and besides if all share the cores, or on a GPU.
SMALLER_MODEL = "a smaller --backbone or --image_size"
ADVICE = {
    "input": ("--cache=pixels", "smaller files", "more cores"),
    "augment": ("fewer or cheaper steps in --augment",),
    "trunk": ("--cache=features with views=K", "--precision=auto", SMALLER_MODEL),
    "tail": ("fewer open stages (a later trainable=)", SMALLER_MODEL),
}
ON_CORES = dict.fromkeys(("augment", "trunk", "tail"), ("more cores", "a GPU"))
ON_GPU = {"tail": ("a larger --batch_size", "--precision=mixed_bfloat16")}

PREDICT = "predict"  # in place of a phase, where images are predicted and nothing is trained

MIN_RATE, MAX_RATE = 1e-6, 1e12  # images/s
MIN_REPORTED_LOSS = 0.1


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images/s: the median of the repeats, and their lower and upper quartiles."""

    median: float
    low: float
    high: float
    repeats: int

    def __post_init__(self) -> None:
        require(
            MIN_RATE <= self.low <= self.median <= self.high < MAX_RATE,
            f"low={self.low}, median={self.median}, high={self.high}; "
            "allowed: rates above 0 in rising order",
        )
        require(self.repeats > 0, f"repeats={self.repeats}; allowed: 1 or more")

    @classmethod
    def of(cls, samples: Sequence[float]) -> Rate:
        """Summarizes the samples, one of each repeat.

        Raises:
          UserError: there are no samples, or one is not a positive finite number.
        """
        require(len(samples) > 0, "repeats=0; allowed: 1 or more")
        values = [float(sample) for sample in samples] * (2 if len(samples) == 1 else 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, repeats=len(samples))

    @property
    def spread(self) -> float:
        """Half the interquartile range, as a fraction of the median."""
        return (self.high - self.low) / 2 / self.median


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The speed of one backbone at one size, batch size, precision and phase.

    image_size: height and width in pixels.
    stages: the rate of each stage that the phase has.
    whole: the rate of all stages together.
    shares_cores: all stages run on the same cores; otherwise the input runs on the cores and the
      other stages on a GPU.
    peak_memory: bytes of `host`, `gpu_0`, …

    Raises:
      UserError: a value is out of range.
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
        for value in (self.batch_size, *self.image_size):
            require(0 < value < 2**31, f"a size is {value}; allowed: 1 or more")
        for name, size in self.peak_memory.items():
            require(0 <= size < 2**63, f"peak_memory of {name}={size}; allowed: bytes")


def efficiency(measurement: Measurement) -> float:
    """Returns the whole's fraction of the rate that the stages allow: that of the slowest device.

    The time of a device is the sum of its stages' times. Good overlap is slightly above 1.
    """
    seconds = max(_seconds_per_image(stages) for stages in _stages_by_device(measurement))
    return measurement.whole.median * seconds


def _stages_by_device(measurement: Measurement) -> list[dict[str, Rate]]:
    """Groups the stages by device; omits devices without stages."""
    if measurement.shares_cores:
        return [dict(measurement.stages)]
    host = {name: rate for name, rate in measurement.stages.items() if name == "input"}
    gpu = {name: rate for name, rate in measurement.stages.items() if name != "input"}
    return [stages for stages in (host, gpu) if stages]


def _seconds_per_image(stages: Mapping[str, Rate]) -> float:
    """Returns the seconds per image of stages that run in sequence."""
    return sum(1 / rate.median for rate in stages.values())


def explain(measurement: Measurement) -> str:
    """Explains which stage is the bottleneck, by how much, what would help, and what is lost."""
    slowest = max(_stages_by_device(measurement), key=_seconds_per_image)
    limit = min(slowest, key=lambda name: slowest[name].median)
    text = (
        f"{STAGES[limit].capitalize()} is the limit: {_limit_details(measurement, limit)}. "
        f"What helps: {', '.join(_advice(measurement, limit))}."
    )
    fraction = efficiency(measurement)
    if fraction < 1 - MIN_REPORTED_LOSS:
        text += (
            f" The whole reaches {fraction:.0%} of what the stages allow; the remaining "
            f"{1 - fraction:.0%} is lost between them."
        )
    return text


def _limit_details(measurement: Measurement, limit: str) -> str:
    """Describes the limit's fraction of its device's time, and the other device's speed-up."""
    *others, busy = sorted(_stages_by_device(measurement), key=_seconds_per_image)
    fraction = 1 / measurement.stages[limit].median / _seconds_per_image(busy)
    if not others:
        owner = "these cores" if measurement.shares_cores or limit == "input" else "the GPU"
        return f"it takes {fraction:.0%} of the time that the stages need on {owner}"
    times = f"{_seconds_per_image(busy) / _seconds_per_image(others[0]):.1f} times as many images"
    if limit == "input":
        return f"the GPU could take {times}"
    return f"it takes {fraction:.0%} of the GPU's time, and the input could deliver {times}"


def _advice(measurement: Measurement, limit: str) -> list[str]:
    """Lists what speeds a stage up: a precision only from float32, and a cache only in training.

    Prediction reads each image once.
    """
    here = ON_CORES if measurement.shares_cores else ON_GPU
    advice = (*ADVICE[limit], *here.get(limit, ()))
    cached, plain = measurement.phase != PREDICT, measurement.precision == "float32"
    useful = {"--cache": cached, "--precision": plain}
    return [words for words in advice if useful.get(words.partition("=")[0], True)]
