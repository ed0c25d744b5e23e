"""A run made ready: data listed, network built, images looked at, all put together."""

from __future__ import annotations

from typing import Any

from engine.cli import flags, main
from engine.core.dataset import DataLoader
from engine.core.recipe import Recipe
from engine.frozen import warmup
from engine.frozen.array_store import CacheBudget
from engine.loggers.base import Logger
from engine.models.classifier import Classifier
from engine.runs.directory import RunDirectory
from engine.training import setup
from pipelines.loading import batches, prepare
from pipelines.sources import sources


def ingredients(
    parsed: flags.Parsed,
    recipe: Recipe,
    run: RunDirectory,
    threads: int,
    logger: Logger,
    devices: Any = None,
) -> tuple[Classifier, DataLoader, dict[str, Any]]:
    """The network, the data, and `cache_budget` and `warmup` of `stages.Job`.

    The images are looked at while the first phase's frozen part is compiled.
    The network comes first: weights that can't be had are no reason to decode a million images.

    Raises:
      UserError: what the flags name is not there, or can't be used.
    """
    examples = sources.load(recipe.data)
    made = setup.build(recipe, examples.classes, run, logger, devices)
    place = main.place(parsed)
    keeping = place if recipe.cache in ("auto", "pixels") else None
    # The weights of a run that is taken up are still in its checkpoint.
    phases = [] if run.started() else [phase for phase in recipe.phases if phase.epochs][:1]
    with warmup.compile_meanwhile(made, recipe, phases, devices) as compiled:
        examples, pixels = prepare.prepare_training_data(
            examples, recipe, run.bad_images, threads, logger.note, keeping
        )
    in_memory = pixels.nbytes if pixels and pixels.in_memory else 0
    loader = batches.make_data_loader(examples, recipe, threads, pixels, main.device())
    cache_budget = CacheBudget(place.memory - in_memory, place.folder)
    return made, loader, {"cache_budget": cache_budget, "warmup": compiled}
