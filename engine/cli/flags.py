"""The flags of all programs, and the specs that they are turned into.

All of it without TensorFlow, so that `--help` and a mistyped flag answer at once. The programs take
from here what they need of `flag_types` too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from absl import flags

from engine.cli.flag_types import (
    AUTO,
    Bytes,
    FlagError,
    NumberOrAuto,
    Parsed,
    Size,
    Span,
    choice,
    flagfile_name,
    number,
    parse,
    place,
    whole,
)
from engine.commands.cache_options import CacheOptions
from engine.core import recipe as specs
from engine.core.call_syntax import parse_calls
from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Recipe
from engine.models.backbones import BACKBONES
from engine.optim import options
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.schedules import SCHEDULES
from pipelines.augment import augment

__all__ = [
    "AUTO",
    "DATA",
    "NO_IMAGES",
    "RUN",
    "RUN_DIR_HINT",
    "FlagError",
    "Parsed",
    "Span",
    "as_flag_errors",
    "cache_dir",
    "cache_options",
    "choice",
    "data_spec",
    "define_data",
    "define_images",
    "define_model",
    "define_run",
    "define_training",
    "flagfile_name",
    "names",
    "number",
    "of_a_recipe",
    "of_a_run",
    "parse",
    "place",
    "price_per_hour",
    "recipe",
    "require",
    "threads",
    "whole",
    "words",
]

BATCH_SIZE = 32
BLOG_AUGMENTATION = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip"
NO_IMAGES = (
    "no images are named; give --data_dir, --train_dir and --val_dir, --dataset or "
    "--manifest, or start with --flagfile=solar_cells.flags"
)
RUN_DIR_HINT = "give the directory that bin/train wrote"
SOURCE_FLAGS = {
    "data_dir": "folders",
    "train_dir": "split_folders",
    "dataset": "tfds",
    "manifest": "manifest",
}


def define_images(values: flags.FlagValues) -> None:
    """Which ones, and how they are divided."""
    text = flags.DEFINE_string
    text("data_dir", None, "folder of one folder per class, or of train/, val/ (and test/)", values)
    text("train_dir", None, "folder with one folder per class, to train on", values)
    text("val_dir", None, "folder with one folder per class, to validate on", values)
    text("test_dir", None, "folder with one folder per class, read once at the end", values)
    text("dataset", None, "a TensorFlow Datasets name, as cats_vs_dogs; or solar_cells", values)
    text("manifest", None, "CSV file with columns path, label and, if wished, split, group", values)
    text("manifest_root", None, "folder that its paths may not leave; its own if not given", values)
    number(
        values,
        "validation_fraction",
        0.2,
        "share of the training part kept for validation, or a number of examples from 1 upward",
    )
    whole(values, "split_seed", 0, "which examples are kept for validation")
    whole(values, "limit_examples", None, "keep so many of each part, for a dry run", least=1)


def define_data(values: flags.FlagValues) -> None:
    define_images(values)
    choice(values, "on_bad_image", "skip", specs.ON_BAD_IMAGE, "what a broken image does")


def define_model(values: flags.FlagValues) -> None:
    choice(values, "backbone", "efficientnet_lite0", BACKBONES, "the pretrained network")
    flags.DEFINE_string("weights", "imagenet", "imagenet, none, or a Keras weight file", values)
    flags.DEFINE_string("init_from", None, "a finished run to start from", values)
    whole(values, "hidden_units", 0, "units of a hidden layer before the last; 0 for none")
    number(values, "dropout", 0.0, "share dropped before the last layer")
    flags.DEFINE(
        Size(), "image_size", None, "H or HxW in pixels; the backbone's own if not given", values
    )
    choice(
        values, "resize", "squash", specs.RESIZES, "how an image of another shape is made to fit"
    )


def define_training(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "phase",
        None,
        "name(key=value, ...), once for each phase; if not given, the head, then the network's top "
        "as well, at a low rate; keys: trainable (head, all, a stage or layer; head), epochs (1), "
        f"optimizer ({', '.join(OPTIMIZERS)}; rmsprop), learning_rate (1e-3), schedule "
        f"({', '.join(SCHEDULES)}), warmup_steps or warmup_epochs, batch_norm "
        f"({', '.join(specs.BATCH_NORM)}), weight_decay, clip_global_norm, "
        "early_stopping_patience (epochs), views, refresh, and the optimizer's and schedule's own",
        flag_values=values,
    )
    flags.DEFINE_string(
        "augment",
        BLOG_AUGMENTATION,
        f"augmentations joined by |, or none; allowed: {', '.join(augment.AUGMENTATIONS)}",
        flag_values=values,
    )
    text = (
        f"examples per step; auto: {BATCH_SIZE}, in as few microbatches "
        "(--gradient_accumulation_steps) as fit in memory"
    )
    flags.DEFINE(NumberOrAuto(int, 1), "batch_size", BATCH_SIZE, text, flag_values=values)
    whole(
        values,
        "gradient_accumulation_steps",
        1,
        "pieces that a batch passes in, to save memory",
        least=1,
    )
    choice(
        values,
        "precision",
        "auto",
        specs.PRECISIONS,
        "of the network's arithmetic; auto measures what is fastest for the frozen part",
    )
    choice(values, "xla", "auto", specs.XLA, "whether XLA compiles the network; auto measures")
    choice(values, "cache", "auto", specs.CACHES, "what is worked out once and kept")
    number(values, "label_smoothing", 0.0, "0 up to 1")
    choice(values, "class_weights", "none", specs.CLASS_WEIGHTS, "weight of each class in the loss")
    whole(values, "seed", 0, "of the order, the augmentation, dropout and the head")
    flags.DEFINE_bool("deterministic", False, "same bits on a GPU too, slower", flag_values=values)


def threads(values: flags.FlagValues) -> None:
    whole(values, "threads", None, "CPU threads; default: all cores", least=1)


def define_run(values: flags.FlagValues) -> None:
    threads(values)
    flags.DEFINE(
        Bytes(),
        "cache_memory",
        None,
        "what may be kept in memory, as 4GB; a third of what is free if not given",
        flag_values=values,
    )
    cache_dir(values)


def cache_dir(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "cache_dir",
        None,
        "where images are kept for later runs, or none; default: ~/.cache/unfreeze",
        flag_values=values,
    )


def cache_options(parsed: Parsed, memory: int | None = None) -> CacheOptions:
    """What `--cache_dir` names, with so many bytes of memory."""
    if parsed.cache_dir is None:
        return CacheOptions(memory=memory)
    folder = None if parsed.cache_dir == "none" else Path(parsed.cache_dir).expanduser()
    return CacheOptions(folder, memory)


def price_per_hour(values: flags.FlagValues) -> None:
    number(values, "price_per_hour", None, "of this machine, in any currency")


DATA = ("validation_fraction", "split_seed", "limit_examples", "on_bad_image")
RECIPE = (define_data, define_model, define_training)  # all that make a recipe
RUN = (*RECIPE, define_run)


def words(text: str | None) -> list[str]:
    """`a, b` -> [a, b]; nothing -> []."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def of_a_run() -> list[str]:
    """The names of the flags that every program has that makes or measures a run."""
    return names(RUN)


def of_a_recipe() -> list[str]:
    """The names of those that are written into its recipe."""
    return names(RECIPE)


def names(groups: Iterable[Callable[[flags.FlagValues], None]]) -> list[str]:
    values = flags.FlagValues()
    for define in groups:
        define(values)
    return list(values)


def require(parsed: Parsed, **hints: str) -> None:
    """Raises:
    FlagError: one of these flags is missing; the message ends with its hint.
    """
    for name, hint in hints.items():
        if not getattr(parsed, name):
            raise FlagError(f"--{name} is missing; {hint}")


@contextmanager
def as_flag_errors() -> Iterator[None]:
    """What does not fit in a recipe came from a flag, so the program ends as for any such flag."""
    try:
        yield
    except UserError as error:
        raise FlagError(str(error)) from None


@as_flag_errors()
def data_spec(parsed: Parsed) -> DataSpec | None:
    """The data that the flags name, or None where they name none.

    Raises:
      FlagError: a value that does not fit.
    """
    named = [name for name in parsed.given if name in SOURCE_FLAGS]
    for name in ("val_dir", "test_dir"):
        if name in parsed.given and "train_dir" not in named:
            raise UserError(f"--{name} stands alone; give --train_dir with it, or --data_dir alone")
    last = named[-1] if named else None
    if "manifest_root" in parsed.given and last != "manifest":
        raise UserError("--manifest_root stands alone; give --manifest with it, or leave it away")
    if last is None:
        return None
    location = getattr(parsed, last)
    if not location:
        raise UserError(f"--{last}= is empty; give the place of your images, or leave it away")
    source = SOURCE_FLAGS[last]
    folders = source == "split_folders"
    return DataSpec(
        source=source,
        location=location if source == "tfds" else _absolute(location),
        validation_location=_absolute(parsed.val_dir) if folders and parsed.val_dir else None,
        test_location=_absolute(parsed.test_dir) if folders and parsed.test_dir else None,
        manifest_root=_absolute(parsed.manifest_root) if parsed.manifest_root else None,
        validation_fraction=parsed.validation_fraction,
        split_seed=parsed.split_seed,
        limit_examples=parsed.limit_examples,
        on_bad_image=parsed.on_bad_image if "on_bad_image" in parsed.given else "skip",
    )


def _absolute(path: str) -> str:
    """As the run is taken up from anywhere; addresses such as gs://… stay as they are."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())


@as_flag_errors()
def recipe(parsed: Parsed) -> Recipe:
    """The run that the flags describe.

    Raises:
      FlagError: a value that does not fit, or no data.
    """
    data = data_spec(parsed)
    if data is None:
        raise FlagError(NO_IMAGES)
    if parsed.batch_size == AUTO and "gradient_accumulation_steps" in parsed.given:
        raise FlagError(
            f"--gradient_accumulation_steps={parsed.gradient_accumulation_steps}: "
            f"--batch_size={AUTO} measures that; omit one of them"
        )
    backbone = BACKBONES[parsed.backbone]
    size, weights = backbone.image_size, parsed.weights
    made = Recipe(
        data=data,
        phases=tuple(specs.parse_phase(text) for text in parsed.phase or _default(backbone.opened)),
        backbone=parsed.backbone,
        image_size=parsed.image_size or (size, size),
        weights=weights if weights in specs.SOURCES_OF_WEIGHTS else _absolute(weights),
        init_from=_absolute(parsed.init_from) if parsed.init_from else None,
        hidden_units=parsed.hidden_units,
        dropout=parsed.dropout,
        resize=parsed.resize,
        augment=parse_calls(parsed.augment),
        label_smoothing=parsed.label_smoothing,
        class_weights=parsed.class_weights,
        batch_size=BATCH_SIZE if parsed.batch_size == AUTO else parsed.batch_size,
        gradient_accumulation_steps=parsed.gradient_accumulation_steps,
        precision=parsed.precision,
        xla=parsed.xla,
        cache=parsed.cache,
        seed=parsed.seed,
        deterministic=parsed.deterministic,
    )
    options.check(made)
    augment.changes(made.augment)
    return made


def _default(opened: str) -> list[str]:
    """The blog's two phases: a new head, then the opened top as well, at a low rate."""
    return [
        "transfer(trainable=head, epochs=2, optimizer=rmsprop, learning_rate=1e-3)",
        f"fine_tune(trainable={opened}, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-4)",
    ]
