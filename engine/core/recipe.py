"""The recipe: everything that describes a run, in one value.

It is built from flags once, written to the run directory as JSON, and read from there by everything
that follows, so that training and serving can't drift apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from engine.core.call_syntax import Call, parse_call, value_text
from engine.core.conversion import convert, parse_json
from engine.core.errors import require
from engine.core.options import check_options, option

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


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training with one set of trainable variables.

    Attributes:
      trainable: `head`, `all`, the stage or layer from which everything upward trains, or a share
        of the network's layers, as in `0.7`: the stages that are above the other 0.3.
      epochs: 0 skips the phase.
      average: of the weights, evaluated and saved in place of the raw ones; a call of
        `engine.optim.averages.AVERAGES`.
      layer_decay: factor on the learning rate for each stage further from the head.
      views: augmentation views of each image, used in turn; None leaves the number to
        `engine.frozen.cache_policy`.
      refresh: fraction of all views that is drawn again each epoch, 0 to 1.
      skip_if_solved: skips the phase where the phases before it have left less than 1 minus this
        share of the errors that naming the most frequent class would make, on validation.
      options: those of the optimizer and the schedule (`momentum`, `warmup_steps`, …);
        `engine.optim.phase_options` checks them.
    """

    name: str
    trainable: str = "head"
    epochs: int = option(1, minimum=0)
    optimizer: str = "rmsprop"
    learning_rate: float = option(1e-3, above=0)
    schedule: str = "constant"
    batch_norm: str = option("frozen", choices=BATCH_NORM)
    average: Call | None = None
    layer_decay: float | None = option(None, above=0, maximum=1)
    weight_decay: float | None = option(None, minimum=0, below=1)
    clip_global_norm: float | None = option(None, above=0)
    early_stopping_patience: int | None = option(None, minimum=1)
    views: int | None = option(None, minimum=1)
    refresh: float = option(0.0, minimum=0, maximum=1)
    skip_if_solved: float | None = option(None, above=0, below=1)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}: "
        check_options(self, where)
        require(
            not self.refresh or self.views is not None,
            f"{where}refresh={self.refresh} requires views=K; add it, or omit refresh",
        )
        require(
            self.average is None or self.batch_norm == "frozen",
            f"{where}average={self.average} requires batch_norm=frozen: statistics of raw weights "
            "don't fit averaged ones; omit one of the two",
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
      manifest_root: the folder that a manifest's relative paths count from and no path may leave;
        its own if None.
    """

    source: str
    location: str
    validation_location: str | None = None
    test_location: str | None = None
    validation_fraction: float = option(
        0.2,
        "share of the training split to validate on, or from 1 upward a number of examples",
        minimum=0,
    )
    split_seed: int = option(0, "seed of the choice of validation examples", minimum=0)
    limit_examples: int | None = option(
        None, "examples to use of each split; default: all", minimum=1
    )
    on_bad_image: str = option("skip", "what a broken image does", choices=ON_BAD_IMAGE)
    manifest_root: str | None = option(
        None,
        "folder that a manifest's relative paths count from, and that no path may leave; default: "
        "the manifest's",
    )

    def __post_init__(self) -> None:
        check_options(self)
        fraction = self.validation_fraction
        require(
            0 < fraction < 1 or (fraction >= 1 and float(fraction).is_integer()),
            f"validation_fraction={fraction}; allowed: a fraction between 0 and 1, "
            "or a whole number of examples",
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that describes a run.

    Attributes:
      image_size: (height, width) in pixels.
      weights: `imagenet`, `none`, or the path of a Keras weight file.
      init_from: a finished run whose weights are the starting point.
      gradient_accumulation_steps: equal microbatches of a batch, whose gradients are summed.
      budget: seconds of wall time that the whole command may take; see `engine.training.budget`.
    """

    data: DataSpec
    phases: tuple[Phase, ...]
    backbone: str
    image_size: tuple[int, int]
    weights: str = option("imagenet", "allowed: imagenet, none, or a Keras weight file")
    init_from: str | None = option(None, "finished run to start from")
    hidden_units: int = option(0, "units of a hidden layer before the head; 0 for none", minimum=0)
    dropout: float = option(0.0, "share of features dropped before the head", minimum=0, below=1)
    resize: str = option(
        "squash", "how an image of another aspect ratio is resized", choices=RESIZES
    )
    augment: tuple[Call, ...] = ()
    label_smoothing: float = option(
        0.0, "share of the label that all classes get", minimum=0, below=1
    )
    class_weights: str = option("none", "weight of each class in the loss", choices=CLASS_WEIGHTS)
    batch_size: int = option(
        32,
        "examples per step; auto for 32 in as few microbatches (--gradient_accumulation_steps) "
        "as fit in memory",
        minimum=1,
    )
    gradient_accumulation_steps: int = option(
        1, "microbatches per batch, to save memory; must divide --batch_size", minimum=1
    )
    precision: str = option(
        "auto",
        "of the network's arithmetic; auto measures the fastest for the frozen layers",
        choices=PRECISIONS,
    )
    xla: str = option("auto", "whether XLA compiles the network; auto measures", choices=XLA)
    cache: str = option(
        "auto", "what is cached: decoded images, outputs of frozen layers", choices=CACHES
    )
    seed: int = option(
        0,
        "of the shuffling, the augmentation, dropout and the head",
        minimum=0,
        maximum=2**32 - 1,
    )
    deterministic: bool = option(False, "the same bits on a GPU too; slower")
    budget: float | None = option(
        None, "wall time for the whole command, by which phases are shortened", above=0
    )

    def __post_init__(self) -> None:
        check_options(self)
        steps = self.gradient_accumulation_steps
        require(
            self.batch_size % steps == 0,
            f"gradient_accumulation_steps={steps}; allowed: a number that divides "
            f"batch_size={self.batch_size}",
        )
        require(
            min(self.image_size) > 0, f"image_size={self.image_size}; allowed: H or HxW above 0"
        )
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
    if type(known.get("trainable")) is float:
        known["trainable"] = str(known["trainable"])
    for key, value in known.items():
        known[key] = convert(value, hints[key], f"phase {call.name!r}: {key}")
    return Phase(name=call.name, options=options, **known)


def phase_text(phase: Phase) -> str:
    """Writes a phase as `parse_phase` reads it, without the values that are defaults."""
    values = {
        field.name: getattr(phase, field.name)
        for field in dataclasses.fields(Phase)
        if field.name not in ("name", "options") and getattr(phase, field.name) != field.default
    }
    words = [f"{key}={_word(value)}" for key, value in {**values, **phase.options}.items()]
    return f"{phase.name}({', '.join(words)})"


def _word(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return value if plain else value_text(value)


def share_of_layers(trainable: str) -> float | None:
    """Returns the share between 0 and 1 that a phase's `trainable` is, as in `0.7`; else None."""
    try:
        share = float(trainable)
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def to_json(spec: Any) -> str:
    """Writes a Recipe, Phase or DataSpec as JSON, with calls as the user would type them."""
    return json.dumps(spec, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Call) else vars(value)


def from_json(kind: type[Spec], text: str | bytes) -> Spec:
    """Reads what `to_json` wrote.

    Raises:
      UserError: the text is no JSON, a key is missing or unknown, or a value has the wrong type or
        range.
    """
    return convert(parse_json(text), kind, kind.__name__)


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Returns the names of the fields that differ, as `data.split_seed` and `phases[1].epochs`."""
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names = [field.name for field in dataclasses.fields(one)]
        inner = [
            (f"{name}.{key}".lstrip("."), getattr(one, key), getattr(other, key)) for key in names
        ]
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        inner = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        return [name] if one != other else []
    return [line for key, mine, theirs in inner for line in differences(mine, theirs, key)]


def digest(recipe: Recipe) -> str:
    """Returns a hash of 32 characters that doesn't depend on the order of the options."""
    text = json.dumps(json.loads(to_json(recipe)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
