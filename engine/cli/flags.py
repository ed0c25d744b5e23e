"""The flags that several programs share, and the recipe that they describe.

All of it without TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from engine.cli.command_line import SOURCES, flag_names
from engine.cli.flag_types import (
    AUTO,
    Bytes,
    Choice,
    Number,
    Size,
    define,
    define_options,
    define_text,
)
from engine.cli.parsed_flags import FlagError, ParsedFlags, as_flag_errors
from engine.commands.shared_options import CacheOptions, ProcessOptions
from engine.core import recipe as specs
from engine.core.call_syntax import parse_calls
from engine.core.errors import UserError
from engine.core.options import Option
from engine.core.recipe import DataSpec, Recipe
from engine.core.text import program
from engine.models.backbones import BACKBONES
from engine.optim import phase_options
from engine.optim.averages import AVERAGES
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.schedules import SCHEDULES
from pipelines.augment import augmentations

BATCH_SIZE = 32
BLOG_AUGMENTATION = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip"
NO_IMAGES = (
    "no images are named; give --data_dir, --train_dir and --val_dir, --dataset or "
    "--manifest, or start with --flagfile=solar_cells.flags"
)
RUN_DIR_HINT = f"give the directory that {program('train')} wrote"
SOURCE_FLAGS = {
    "data_dir": "folders",
    "train_dir": "split_folders",
    "dataset": "tfds",
    "manifest": "manifest",
}
PHASE_HELP = (
    "name(key=value, ...), once for each phase; default: the head alone, then the network's top "
    "as well at a low rate; keys and their defaults: trainable (head, all, a stage or layer; "
    f"head), epochs (1), optimizer ({', '.join(OPTIMIZERS)}; rmsprop), learning_rate (1e-3), "
    f"schedule ({', '.join(SCHEDULES)}; constant), warmup_steps or warmup_epochs, batch_norm "
    f"({', '.join(specs.BATCH_NORM)}; frozen), layer_decay (of the rate, by stage), average "
    f"({', '.join(AVERAGES)}), weight_decay, clip_global_norm, early_stopping_patience (epochs), "
    "views (of the augmentation), refresh, and the optimizer's and schedule's own; "
    "optimizer=lbfgs solves the head at once, with l2 (default: chosen by cross-validation) and "
    "folds (5)"
)


def define_images(values: flags.FlagValues) -> None:
    """Flags of what the images are and how they are split."""
    text = "folder of one folder per class, or of train/, val/ (and test/)"
    define_text(values, "data_dir", None, text)
    define_text(values, "train_dir", None, "folder with one folder per class, to train on")
    define_text(values, "val_dir", None, "folder with one folder per class, to validate on")
    define_text(values, "test_dir", None, "folder with one folder per class, read once at the end")
    text = "TensorFlow Datasets name, such as cats_vs_dogs; or solar_cells"
    define_text(values, "dataset", None, text)
    text = "CSV file with columns path, label and optionally split, group"
    define_text(values, "manifest", None, text)
    define_options(values, DataSpec, omit=("on_bad_image",))


def define_data(values: flags.FlagValues) -> None:
    define_images(values)
    define_options(values, DataSpec)


def define_recipe(values: flags.FlagValues) -> None:
    """All flags that make a recipe."""
    define_data(values)
    text = "pretrained network"
    define(values, "backbone", "efficientnet_lite0", Choice(BACKBONES), text)
    text = "size of the network's input; default: the backbone's"
    define(values, "image_size", None, Size(), text)
    flags.DEFINE_multi_string("phase", None, PHASE_HELP, flag_values=values)
    text = f"augmentations joined by |, or none; allowed: {', '.join(augmentations.AUGMENTATIONS)}"
    define_text(values, "augment", BLOG_AUGMENTATION, text)
    auto = Number(int, Option(minimum=1, word=AUTO))
    define_options(values, Recipe, batch_size=auto)


def define_run(values: flags.FlagValues) -> None:
    define_options(values, ProcessOptions)
    text = "memory for caches; default: a third of the free memory"
    define(values, "cache_memory", None, Bytes(), text)
    define_cache_dir(values)


def define_cache_dir(values: flags.FlagValues) -> None:
    text = (
        "folder in which decoded images are cached for later runs, or none; "
        "default: ~/.cache/unfreeze"
    )
    define_text(values, "cache_dir", None, text)


def cache_options(parsed: ParsedFlags, memory: int | None = None) -> CacheOptions:
    """The folder that `--cache_dir` names, with this many bytes of memory."""
    if not parsed.cache_dir:  # an empty one, too, is the default
        return CacheOptions(memory=memory)
    folder = None if parsed.cache_dir == "none" else Path(parsed.cache_dir).expanduser()
    return CacheOptions(folder, memory)


DATA = ("validation_fraction", "split_seed", "limit_examples", "on_bad_image")
RUN = (define_recipe, define_run)


def run_flags() -> list[str]:
    """Names of the flags of every program that trains or measures a run."""
    return flag_names(RUN)


def recipe_flags() -> list[str]:
    """Names of the flags that a run's recipe is made from."""
    return flag_names([define_recipe])


@as_flag_errors()
def build_data_spec(parsed: ParsedFlags) -> DataSpec | None:
    """The data that the flags name; None where they name none.

    Raises:
      FlagError: a value that does not fit.
    """
    sources = [name for name in parsed.explicit if name in SOURCE_FLAGS]
    for source, companions in SOURCES.items():
        for name in companions:
            if name in parsed.explicit and source not in sources:
                raise UserError(f"--{name} requires --{source}; give both, or omit it")
    if not sources:
        return None
    name = sources[0]
    location = getattr(parsed, name)
    if not location:
        raise UserError(f"--{name}= is empty; give the folder of your images, or omit it")
    source = SOURCE_FLAGS[name]
    folders = source == "split_folders"
    return parsed.options(
        DataSpec,
        source=source,
        location=location if source == "tfds" else _absolute(location),
        validation_location=_absolute(parsed.val_dir) if folders and parsed.val_dir else None,
        test_location=_absolute(parsed.test_dir) if folders and parsed.test_dir else None,
        manifest_root=_absolute(parsed.manifest_root) if parsed.manifest_root else None,
    )


def required_data(parsed: ParsedFlags) -> DataSpec:
    """Raises:
    FlagError: the flags name no images.
    """
    data = build_data_spec(parsed)
    if data is None:
        raise FlagError(NO_IMAGES)
    return data


def other_data(parsed: ParsedFlags) -> DataSpec | None:
    """The data that the flags name in place of a run's own; None where they name none.

    Raises:
      FlagError: flags that go with other data, and no other data.
    """
    data = build_data_spec(parsed)
    if data is None:
        parsed.refuse(DATA, "requires other data; name it, such as with --data_dir")
    return data


def _absolute(path: str) -> str:
    """Since a run may be resumed from another folder; addresses such as gs://… stay as they are."""
    return path if "://" in path else str(Path(os.path.expanduser(path)).absolute())


@as_flag_errors()
def build_recipe(parsed: ParsedFlags) -> Recipe:
    """The recipe that the flags describe.

    Raises:
      FlagError: a value that does not fit, or no data.
    """
    data = required_data(parsed)
    if parsed.batch_size == AUTO and "gradient_accumulation_steps" in parsed.explicit:
        raise FlagError(
            f"--gradient_accumulation_steps={parsed.gradient_accumulation_steps}: "
            f"--batch_size={AUTO} measures that; omit one of them"
        )
    backbone = BACKBONES[parsed.backbone]
    size, weights = backbone.image_size, parsed.weights
    recipe = parsed.options(
        Recipe,
        data=data,
        phases=tuple(
            map(specs.parse_phase, parsed.phase or _default_phases(backbone.fine_tune_from))
        ),
        image_size=parsed.image_size or (size, size),
        weights=weights if weights in specs.SOURCES_OF_WEIGHTS else _absolute(weights),
        init_from=_absolute(parsed.init_from) if parsed.init_from else None,
        augment=parse_calls(parsed.augment),
        batch_size=BATCH_SIZE if parsed.batch_size == AUTO else parsed.batch_size,
    )
    phase_options.check_recipe(recipe)
    augmentations.parse_changes(recipe.augment)
    return recipe


def _default_phases(opened: str) -> list[str]:
    """The head alone, then the opened top of the network as well, at a low rate."""
    return [
        "transfer(trainable=head, epochs=2, optimizer=rmsprop, learning_rate=1e-3)",
        f"fine_tune(trainable={opened}, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-4)",
    ]
