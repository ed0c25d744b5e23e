"""Recipes of runs where little was chosen: by a preset's rules, or from a run to train further."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engine.commands.shared_options import Log, ignore
from engine.core.call_syntax import parse_calls
from engine.core.errors import UserError, choose
from engine.core.recipe import DataSpec, Recipe, phase_text
from engine.models.backbones import BACKBONES
from engine.optim import phase_options, presets
from engine.optim.optimizers import SOLVER
from engine.runs.directory import RunDirectory
from engine.runtime import hardware, tensorflow_setup

RATE_STEPS = 1000  # at which a schedule's final rate is looked up
FURTHER_SHARE = 0.1  # of the peak rate, at least: schedules end at nothing
FURTHER_WARMUP_EPOCHS = 0.5


def preset_recipe(
    data: DataSpec,
    preset: str = "standard",
    *,
    backbone: str = "efficientnet_lite0",
    epochs: int | None = None,
    learning_rate: float | None = None,
    threads: int | None = None,
    log: Log = ignore,
    **changes: Any,
) -> Recipe:
    """Returns the recipe that a preset's rules choose for these images.

    Args:
      preset: `standard`, `quick` (the head alone) or `thorough`.
      epochs, learning_rate: of the fine-tune phase, in place of what the rules say.
      threads: CPU threads, for data sets of TensorFlow Datasets, which start TensorFlow.
      log: receives three lines on what was chosen.
      changes: fields of the recipe that are chosen already.

    Raises:
      UserError: the images are not there, or a value is not allowed.
    """
    choose(preset, dict.fromkeys(presets.PRESETS), "preset")
    side = choose(backbone, BACKBONES, "backbone").image_size
    if data.source == "tfds":
        tensorflow_setup.start_tensorflow(threads, changes.get("deterministic", False))
    size = changes.pop("image_size", None) or (side, side)
    images, classes = _count_training_images(data)
    facts = presets.Facts(
        *(preset, images, classes, backbone, size),
        memory=hardware.device_memory(),
        hidden_units=changes.get("hidden_units", 0),
    )
    chosen = presets.choose_recipe(facts, epochs, learning_rate)
    if chosen["phases"][-1].optimizer == SOLVER and (epochs or learning_rate):
        raise UserError(
            f"the preset {preset} solves the head, without epochs or a rate; omit these, or choose "
            "the preset standard"
        )
    chosen["augment"] = parse_calls(chosen["augment"])
    if "batch_size" in changes:
        del chosen["gradient_accumulation_steps"]
    values = {"data": data, "backbone": backbone, "image_size": size, **chosen, **changes}
    recipe = Recipe(**values)
    for line in _describe(recipe, facts):
        log(line)
    return recipe


def _count_training_images(data: DataSpec) -> tuple[int, int]:
    """Returns the number of training images, within one or two, and of their classes."""
    from pipelines.sources import sources
    from pipelines.sources.examples import SPLITS, TRAIN, VALIDATION

    examples = sources.list_examples(data)
    counts = examples.subset(SPLITS[TRAIN]).class_counts()
    images, fraction = sum(counts), data.validation_fraction
    if not examples.split_counts()[VALIDATION]:
        images = round(images - fraction if fraction >= 1 else images * (1 - fraction))
    return max(min(images, data.limit_examples or images), 1), sum(map(bool, counts))


def _describe(recipe: Recipe, facts: presets.Facts) -> list[str]:
    calls = " ".join(map(str, recipe.augment)) or "none"
    return [
        f"preset {facts.preset}, by {facts.images:,} training images, {facts.classes:,} classes "
        f"({facts.per_class:.0f} images each) and {recipe.backbone}; --print_flags writes it out",
        f"  phases: {'; '.join(map(phase_text, recipe.phases))}",
        f"  batches of {recipe.batch_size}, dropout {recipe.dropout:g}, label smoothing "
        f"{recipe.label_smoothing:g}, augmentation: {calls}",
    ]


def further_recipe(
    run_dir: str | Path,
    epochs: int,
    learning_rate: float | None = None,
    data: DataSpec | None = None,
    **changes: Any,
) -> Recipe:
    """Returns the recipe that trains a finished run further, in a new directory.

    Its phase is the run's last, at the rate that this ended with, a tenth of its peak at least,
    with a warm-up of half an epoch and a cosine. All else is the run's.

    Args:
      learning_rate: in place of that.
      data: other images; default: the run's.
      changes: fields of the recipe.

    Raises:
      UserError: there is no such run, or its last phase has no rate.
    """
    run_dir = Path(run_dir).absolute()
    recipe = RunDirectory(run_dir).read_recipe()
    last = [phase for phase in recipe.phases if phase.epochs][-1]
    options = phase_options.phase_options(last).optimizer
    if last.optimizer == SOLVER:
        raise UserError(
            f"--init_from={run_dir}: its last phase is solved, not trained in epochs; omit "
            "--epochs to start a preset from it"
        )
    ended = phase_options.phase_learning_rate(last, RATE_STEPS)(last.epochs * RATE_STEPS - 1)
    phase = dataclasses.replace(
        last,
        epochs=epochs,
        learning_rate=learning_rate or max(ended, FURTHER_SHARE * last.learning_rate),
        schedule="cosine",
        skip_if_solved=None,
        options={**options, "warmup_epochs": FURTHER_WARMUP_EPOCHS},
    )
    values: dict[str, Any] = {
        "data": data or recipe.data,
        "phases": (phase,),
        "init_from": str(run_dir),
    }
    return dataclasses.replace(recipe, **values, budget=None, **changes)
