"""The values that describe a run, and the small language that they are written in.

`Recipe` is a whole run in one value. It is made from flags once, written to the run directory as
JSON, and read from there by everything that comes later, so that training and serving can't drift
apart. This module is the ground of the project: it imports the standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from engine.calls import Call, parse_call, parse_calls
from engine.errors import UserError, nearest

__all__ = [
    "Batch",
    "Call",
    "DataSpec",
    "Feed",
    "Phase",
    "Recipe",
    "UserError",
    "choose",
    "from_json",
    "parse_call",
    "parse_calls",
    "parse_phase",
    "to_json",
]

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
RESIZES = ("squash", "crop", "pad")
SOURCES_OF_WEIGHTS = ("imagenet", "none")
BATCH_NORM = ("frozen", "train")
CLASS_WEIGHTS = ("none", "balanced")
ON_BAD_IMAGE = ("skip", "fail")

Entry = TypeVar("Entry")
Spec = TypeVar("Spec")


def choose(name: str, table: Mapping[str, Entry], what: str) -> Entry:
    """The table's entry of that name.

    Raises:
      UserError: the table has no such entry; the message names the nearest and all that there are.
    """
    if name in table:
        return table[name]
    raise UserError(
        f"{what} {name!r} does not exist{nearest(name, table)}; allowed: {', '.join(table)}"
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _one_of(value: str, allowed: Iterable[str], what: str) -> None:
    choose(value, dict.fromkeys(allowed), what)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training with one set of trainable variables.

    `trainable` is `head`, `all`, or the stage or layer from which everything upward trains.
    `epochs` may be 0: the phase is then skipped. `options` are those of the optimizer and of the
    schedule (`momentum`, `warmup_steps`, …); `engine.recipes` checks that each has a taker.
    """

    name: str
    trainable: str = "head"
    epochs: int = 1
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    batch_norm: str = "frozen"
    weight_decay: float | None = None
    clip_norm: float | None = None
    early_stop: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}"
        _one_of(self.batch_norm, BATCH_NORM, f"{where}: batch_norm")
        _require(self.epochs >= 0, f"{where}: epochs={self.epochs}; allowed: 0 or more")
        for key in ("learning_rate", "clip_norm", "early_stop"):
            value = getattr(self, key)
            _require(
                value is None or value > 0, f"{where}: {key}={value}; allowed: a number above 0"
            )
        _require(
            0 <= (self.weight_decay or 0) < 1,
            f"{where}: weight_decay={self.weight_decay}; allowed: 0 or more, below 1",
        )


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Where the pictures are and how they are divided.

    `source` is a key of `pipelines.sources.SOURCES`; `location` a folder, a file or the name of a
    TFDS data set; `validation_location` and `test_location` the further folders of the source
    `split_folders`.
    `validation_fraction` is a share of the training part in (0, 1), or a number of examples where
    it is 1 or more; sources that bring a validation part of their own don't use it.
    `limit_examples` keeps that many examples of each part, evenly over the classes.
    """

    source: str
    location: str
    validation_location: str | None = None
    test_location: str | None = None
    validation_fraction: float = 0.2
    split_seed: int = 0
    limit_examples: int | None = None
    on_bad_image: str = "skip"

    def __post_init__(self) -> None:
        _one_of(self.on_bad_image, ON_BAD_IMAGE, "on_bad_image")
        fraction = self.validation_fraction
        _require(
            0 < fraction < 1 or (fraction >= 1 and fraction == int(fraction)),
            f"validation_fraction={fraction}; allowed: a share between 0 and 1, "
            "or a whole number of examples",
        )
        limit = self.limit_examples
        _require(
            limit is None or limit > 0, f"limit_examples={limit}; allowed: a whole number above 0"
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run in one value.

    `image_size` is (height, width) in pixels. `weights` is `imagenet`, `none`, or the path of a
    Keras weight file; `init_from` a finished run whose weights are the starting point.
    """

    data: DataSpec
    phases: tuple[Phase, ...]
    backbone: str
    image_size: tuple[int, int]
    weights: str = "imagenet"
    init_from: str | None = None
    head_units: int = 0
    dropout: float = 0.0
    resize: str = "squash"
    augment: tuple[Call, ...] = ()
    label_smoothing: float = 0.0
    class_weights: str = "none"
    batch_size: int = 32
    precision: str = "float32"
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        _one_of(self.precision, PRECISIONS, "precision")
        _one_of(self.resize, RESIZES, "resize")
        _one_of(self.class_weights, CLASS_WEIGHTS, "class_weights")
        _require(self.batch_size > 0, f"batch_size={self.batch_size}; allowed: 1 or more")
        _require(self.head_units >= 0, f"head_units={self.head_units}; allowed: 0 or more")
        _require(
            min(self.image_size) > 0, f"image_size={self.image_size}; allowed: H or HxW above 0"
        )
        for key in ("dropout", "label_smoothing"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"{key}={value}; allowed: 0 or more, below 1")
        _require(0 <= self.seed < 2**32, f"seed={self.seed}; allowed: 0 to 2**32 - 1")
        names = [phase.name for phase in self.phases]
        _require(bool(names), "the recipe has no phase; give at least one --phase='name(…)'")
        twice = {name for name in names if names.count(name) > 1}
        _require(
            not twice, f"phase {min(twice, default='')!r} stands twice; give each its own name"
        )


class Batch(NamedTuple):
    """B examples, of a fixed shape.

    images: uint8 [B, height, width, 3], RGB, 0 to 255.
    labels: int32 [B], index into the classes.
    weights: float32 [B], 1 for an example, 0 for one that only fills the batch up.
    examples: int32 [B], the example's number in its part; what random draws depend on.
    epochs: int32 [B], the epoch that the draw belongs to, counted over all phases.
    """

    images: Any
    labels: Any
    weights: Any
    examples: Any
    epochs: Any


@dataclasses.dataclass(frozen=True)
class Feed:
    """The data as the engine sees it: no files, no formats.

    `train(first, stop)` gives the training batches of the steps first to stop - 1, counted over
    all phases; `validation()` and `test()` give every example of their part once, the last batch
    filled up at weight 0. `test` is None where there is no test part. `names` gives the path of a
    training example by its number, for messages.
    """

    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    validation_examples: int
    train: Callable[[int, int], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    test: Callable[[], Iterable[Batch]] | None
    names: Callable[[int], str]

    @property
    def train_examples(self) -> int:
        return sum(self.class_counts)


def parse_phase(text: str) -> Phase:
    """`name(key=value, …)` -> Phase; keys that are no field of Phase become its options.

    Raises:
      UserError: the text is no such call, or a value does not fit.
    """
    call = parse_call(text)
    _require(not call.args, f"phase {text!r}: write every value as key=value")
    hints = typing.get_type_hints(Phase)
    fields = {field.name for field in dataclasses.fields(Phase)} - {"name", "options"}
    known = {key: value for key, value in call.kwargs.items() if key in fields}
    options = {key: value for key, value in call.kwargs.items() if key not in fields}
    for key, value in known.items():
        known[key] = _convert(value, hints[key], f"phase {call.name!r}: {key}")
    return Phase(name=call.name, options=options, **known)


def to_json(spec: Any) -> str:
    """A spec as JSON text; calls are written as the user would type them."""
    return json.dumps(dataclasses.asdict(_calls_as_text(spec)), indent=2) + "\n"


def _calls_as_text(spec: Any) -> Any:
    changes = {
        field.name: tuple(str(call) for call in value)
        for field in dataclasses.fields(spec)
        if (value := getattr(spec, field.name)) and isinstance(value, tuple)
        if isinstance(value[0], Call)
    }
    return dataclasses.replace(spec, **changes)


def from_json(kind: type[Spec], text: str) -> Spec:
    """JSON text -> a spec of that kind.

    Raises:
      UserError: the text is no JSON, a key is missing or unknown, or a value does not fit.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"not JSON: {error}") from None
    return _convert(values, kind, kind.__name__)


def _convert(value: Any, kind: Any, what: str) -> Any:
    """The value as the type asks for it, or a UserError that says what was received."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(value, rest, what)
    if kind is Call:
        return parse_call(value)
    if dataclasses.is_dataclass(kind):
        return _convert_fields(value, kind, what)
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        _require(len(inner) == len(value), f"{what}={value!r}; allowed: {len(inner)} values")
        return tuple(_convert(v, k, what) for v, k in zip(value, inner, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    raise UserError(f"{what}={value!r}; allowed: {getattr(kind, '__name__', kind)}")


def _convert_fields(values: Any, kind: Any, what: str) -> Any:
    _require(isinstance(values, dict), f"{what} is {type(values).__name__}; allowed: an object")
    hints = typing.get_type_hints(kind)
    for key in values:
        choose(key, hints, f"{what}: key")
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        _require(not needed or field.name in values, f"{what}: key {field.name!r} is missing")
    return kind(
        **{key: _convert(value, hints[key], f"{what}.{key}") for key, value in values.items()}
    )
