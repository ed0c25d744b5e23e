"""The recipe: everything that describes a run, in one value.

It is built from flags once, written to the run directory as JSON, and read from there by everything
that follows, so that training and serving can't drift apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from engine.core.call_syntax import Call, parse_call
from engine.core.conversion import convert, parse_json
from engine.core.errors import choose, require

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
XLA = ("auto", "on", "off")
CACHES = ("auto", "none", "pixels", "features")
RESIZES = ("squash", "crop", "pad")
ON_NAN = ("halve", "stop")  # see `engine.training.nan_recovery`
SOURCES_OF_WEIGHTS = ("imagenet", "none")
BATCH_NORM = ("frozen", "train")
CLASS_WEIGHTS = ("none", "balanced")
ON_BAD_IMAGE = ("skip", "fail")

Spec = TypeVar("Spec")


def _one_of(value: str, allowed: Iterable[str], what: str) -> None:
    choose(value, dict.fromkeys(allowed), what)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training with one set of trainable variables.

    Attributes:
      trainable: `head`, `all`, or the stage or layer from which everything upward trains.
      epochs: 0 skips the phase.
      views: augmentation views of each image, used in turn; None leaves the number to
        `engine.frozen.cache_policy`.
      refresh: fraction of all views that is drawn again each epoch, 0 to 1.
      options: those of the optimizer and the schedule (`momentum`, `warmup_steps`, …);
        `engine.optim.phase_options` checks them.
    """

    name: str
    trainable: str = "head"
    epochs: int = 1
    optimizer: str = "rmsprop"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    batch_norm: str = "frozen"
    weight_decay: float | None = None
    clip_global_norm: float | None = None
    early_stopping_patience: int | None = None
    views: int | None = None
    refresh: float = 0.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}"
        _one_of(self.batch_norm, BATCH_NORM, f"{where}: batch_norm")
        require(self.epochs >= 0, f"{where}: epochs={self.epochs}; allowed: 0 or more")
        for key in ("learning_rate", "clip_global_norm", "early_stopping_patience"):
            value = getattr(self, key)
            require(
                value is None or 0 < value < math.inf,
                f"{where}: {key}={value}; allowed: a number above 0",
            )
        require(
            self.views is None or self.views > 0,
            f"{where}: views={self.views}; allowed: 1 or more, or none to choose automatically",
        )
        require(
            0 <= self.refresh <= 1,
            f"{where}: refresh={self.refresh}; allowed: a fraction from 0 to 1",
        )
        require(
            not self.refresh or self.views is not None,
            f"{where}: refresh={self.refresh} requires views=K; add it, or omit refresh",
        )
        require(
            0 <= (self.weight_decay or 0) < 1,
            f"{where}: weight_decay={self.weight_decay}; allowed: 0 or more, below 1",
        )


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Where the images are and how they are split.

    Attributes:
      source: a key of `pipelines.sources.sources.SOURCES`.
      location: a folder, a file or the name of a TFDS data set.
      validation_location, test_location: further folders of the source `split_folders`.
      validation_fraction: a fraction of the training split in (0, 1), or a number of examples, 1
        or more. Unused where the source has a validation split of its own.
      limit_examples: keeps that many examples of each split, evenly over the classes.
      manifest_root: the folder that a manifest's paths are relative to; its own if None.
    """

    source: str
    location: str
    validation_location: str | None = None
    test_location: str | None = None
    validation_fraction: float = 0.2
    split_seed: int = 0
    limit_examples: int | None = None
    on_bad_image: str = "skip"
    manifest_root: str | None = None

    def __post_init__(self) -> None:
        _one_of(self.on_bad_image, ON_BAD_IMAGE, "on_bad_image")
        fraction = self.validation_fraction
        require(
            0 < fraction < 1 or (fraction >= 1 and float(fraction).is_integer()),
            f"validation_fraction={fraction}; allowed: a fraction between 0 and 1, "
            "or a whole number of examples",
        )
        limit = self.limit_examples
        require(
            limit is None or limit > 0, f"limit_examples={limit}; allowed: a whole number above 0"
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that describes a run.

    Attributes:
      image_size: (height, width) in pixels.
      weights: `imagenet`, `none`, or the path of a Keras weight file.
      init_from: a finished run whose weights are the starting point.
      gradient_accumulation_steps: equal microbatches of a batch, whose gradients are summed.
    """

    data: DataSpec
    phases: tuple[Phase, ...]
    backbone: str
    image_size: tuple[int, int]
    weights: str = "imagenet"
    init_from: str | None = None
    hidden_units: int = 0
    dropout: float = 0.0
    resize: str = "squash"
    augment: tuple[Call, ...] = ()
    label_smoothing: float = 0.0
    class_weights: str = "none"
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    precision: str = "auto"
    xla: str = "auto"
    cache: str = "auto"
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        _one_of(self.precision, PRECISIONS, "precision")
        _one_of(self.xla, XLA, "xla")
        _one_of(self.cache, CACHES, "cache")
        _one_of(self.resize, RESIZES, "resize")
        _one_of(self.class_weights, CLASS_WEIGHTS, "class_weights")
        require(self.batch_size > 0, f"batch_size={self.batch_size}; allowed: 1 or more")
        steps = self.gradient_accumulation_steps
        require(
            steps > 0 and self.batch_size % steps == 0,
            f"gradient_accumulation_steps={steps}; allowed: a number that divides "
            f"batch_size={self.batch_size}",
        )
        require(self.hidden_units >= 0, f"hidden_units={self.hidden_units}; allowed: 0 or more")
        require(
            min(self.image_size) > 0, f"image_size={self.image_size}; allowed: H or HxW above 0"
        )
        for key in ("dropout", "label_smoothing"):
            value = getattr(self, key)
            require(0 <= value < 1, f"{key}={value}; allowed: 0 or more, below 1")
        require(0 <= self.seed < 2**32, f"seed={self.seed}; allowed: 0 to 2**32 - 1")
        self._check_phases()

    def _check_phases(self) -> None:
        names = [phase.name for phase in self.phases]
        require(bool(names), "the recipe has no phase; give at least one --phase='name(…)'")
        for name in names:
            require(names.count(name) == 1, f"duplicate phase name {name!r}; rename one")
        require(
            any(phase.epochs for phase in self.phases),
            f"epochs=0 in every phase ({', '.join(names)}); allowed: one phase at least with "
            "epochs=1 or more",
        )


def parse_phase(text: str) -> Phase:
    """Parses `name(key=value, …)`; keys that are no field of Phase become its options.

    Raises:
      UserError: the text is no such call, or a value has the wrong type or range.
    """
    call = parse_call(text)
    require(not call.args, f"phase {text!r}: write every value as key=value")
    hints = typing.get_type_hints(Phase)
    fields = {field.name for field in dataclasses.fields(Phase)} - {"name", "options"}
    known = {key: value for key, value in call.kwargs.items() if key in fields}
    options = {key: value for key, value in call.kwargs.items() if key not in fields}
    for key, value in known.items():
        known[key] = convert(value, hints[key], f"phase {call.name!r}: {key}")
    return Phase(name=call.name, options=options, **known)


def to_json(spec: Any) -> str:
    """Writes a Recipe, Phase or DataSpec as JSON, with calls as the user would type them."""
    return json.dumps(spec, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Call) else vars(value)


def from_json(kind: type[Spec], text: str) -> Spec:
    """Reads what `to_json` wrote.

    Raises:
      UserError: the text is no JSON, a key is missing or unknown, or a value has the wrong type or
        range.
    """
    return convert(parse_json(text), kind, kind.__name__)


def digest(recipe: Recipe) -> str:
    """Returns a hash of 32 characters that doesn't depend on the order of the options."""
    text = json.dumps(json.loads(to_json(recipe)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
