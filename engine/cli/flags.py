"""The flags that several programs share, and the recipe that they describe.

All of it without TensorFlow, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from engine.cli.command_line import SOURCES, flag_names
from engine.cli.flag_types import (
    AUTO,
    Bytes,
    Choice,
    Duration,
    Number,
    Size,
    define,
    define_options,
    define_text,
)
from engine.cli.parsed_flags import FlagError, ParsedFlags, as_flag_errors
from engine.commands.preset_recipe import further_recipe, preset_recipe
from engine.commands.shared_options import CacheOptions, Log, ProcessOptions, ignore
from engine.core import recipe as specs
from engine.core.call_syntax import Call, parse_calls
from engine.core.errors import UserError
from engine.core.options import Option
from engine.core.recipe import DataSpec, Recipe
from engine.core.text import program
from engine.models.backbones import BACKBONES
from engine.optim import phase_options
from engine.optim.averages import AVERAGES
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.presets import BATCH_SIZE, PRESETS
from engine.optim.schedules import SCHEDULES
from pipelines.augment import changes

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
    "name(key=value, ...), once for each phase; default: those of --preset; keys and their "
    "defaults: trainable (head, all, norms, a stage or layer, or a share of the layers as in 0.7; "
    f"head), epochs (1), optimizer ({', '.join(OPTIMIZERS)}; rmsprop), learning_rate (1e-3), "
    f"schedule ({', '.join(SCHEDULES)}; constant), warmup_steps or warmup_epochs, batch_norm "
    f"({', '.join(specs.BATCH_NORM)}; frozen), layer_decay (of the rate, by stage), average "
    f"({', '.join(AVERAGES)}), weight_decay, clip_global_norm, early_stopping_patience (epochs), "
    "views (of the augmentation), refresh, skip_if_solved, and the optimizer's and schedule's own; "
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
    text = "what is chosen by the number of images and the network; default: standard"
    define(values, "preset", None, Choice(PRESETS), text)
    text = "epochs of the preset's fine-tune phase, or with --init_from of that run's last phase"
    define(values, "epochs", None, Number(int, Option(minimum=1)), text)
    text = "learning rate of the same phase"
    define(values, "learning_rate", None, Number(float, Option(above=0)), text)
    flags.DEFINE_multi_string("phase", None, PHASE_HELP, flag_values=values)
    text = f"augmentations joined by |, or none; allowed: {', '.join(changes.AUGMENTATIONS)}"
    define_text(values, "augment", BLOG_AUGMENTATION, text)
    auto = Number(int, Option(minimum=1, word=AUTO))
    define_options(values, Recipe, batch_size=auto, budget=Duration())


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


PRESET_FLAGS = ("preset", "epochs", "learning_rate")
RECIPE_FIELDS = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("data", "phases")]
DATA = ("validation_fraction", "split_seed", "limit_examples", "on_bad_image")
RUN = (define_recipe, define_run)


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
def build_recipe(parsed: ParsedFlags, log: Log = ignore) -> Recipe:
    """The recipe that the flags describe, by a preset where there is no `--phase`.

    Args:
      log: receives what a preset chose.

    Raises:
      FlagError: a value that does not fit, or no data.
    """
    if parsed.batch_size == AUTO and "gradient_accumulation_steps" in parsed.explicit:
        raise FlagError(
            f"--gradient_accumulation_steps={parsed.gradient_accumulation_steps}: "
            f"--batch_size={AUTO} measures that; omit one of them"
        )
    recipe = _recipe(parsed, log)
    phase_options.check_recipe(recipe)
    return recipe


def _recipe(parsed: ParsedFlags, log: Log) -> Recipe:
    """By `--phase`, or else by the run of `--init_from` that is trained further, or by a preset."""
    given = [name for name in PRESET_FLAGS if name in parsed.explicit]
    if parsed.phase and given:
        raise FlagError(
            f"--{given[0]} is for a preset, and --phase says all of its own, as in "
            "--phase='transfer(epochs=5, learning_rate=1e-3)'; omit one of them"
        )
    if parsed.phase:
        side = BACKBONES[parsed.backbone].image_size
        values = {name: getattr(parsed, name) for name in RECIPE_FIELDS}
        phases = tuple(map(specs.parse_phase, parsed.phase))
        values = _converted({**values, "image_size": parsed.image_size or (side, side)})
        return Recipe(data=required_data(parsed), phases=phases, **values)
    explicit = [name for name in RECIPE_FIELDS if name in parsed.explicit]
    changes = _converted({name: getattr(parsed, name) for name in explicit})
    rates = {"epochs": parsed.epochs, "learning_rate": parsed.learning_rate}
    if parsed.epochs and changes.get("init_from"):
        data, run = build_data_spec(parsed), Path(changes.pop("init_from"))
        parsed.refuse(("preset",), "chooses other phases than those of --init_from; omit it")
        return further_recipe(run, **rates, data=data, **changes)
    preset = parsed.preset or PRESETS[0]
    threads = parsed.threads
    data = required_data(parsed)
    return preset_recipe(data, preset, **rates, threads=threads, log=log, **changes)


def _parse_augmentations(text: str) -> tuple[Call, ...]:
    calls = parse_calls(text)
    changes.parse_changes(calls)
    return calls


def _converted(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields from the values of flags, those of them that there are."""
    convert: dict[str, Callable[[Any], Any]] = {
        "augment": _parse_augmentations,
        "batch_size": lambda size: BATCH_SIZE if size == AUTO else size,
        "weights": lambda name: name if name in specs.SOURCES_OF_WEIGHTS else _absolute(name),
        "init_from": lambda run: _absolute(run) if run else None,
    }
    return {name: convert.get(name, lambda same: same)(value) for name, value in values.items()}
