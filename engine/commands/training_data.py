"""Prepares a training job: images listed, network built, first pass over the images."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.commands.shared_options import CacheOptions
from engine.core.recipe import Recipe
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.trial_memory import TrialMemory
from engine.loggers.base import Logger
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from engine.training import setup
from engine.training.job import TrainJob
from pipelines.augment import augmentations
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import NOWHERE
from pipelines.sources import sources
from pipelines.sources.examples import Examples


def prepare_job(
    recipe: Recipe,
    run: RunDirectory,
    cache: CacheOptions,
    threads: int,
    logger: Logger,
    devices: Any = None,
    examples: Examples | None = None,
    **settings: Any,
) -> TrainJob:
    """Lists a run's images, scans them while its network is built, and returns the job.

    A network that can't be built ends the scan. The first phase's frozen layers are compiled beside
    the scan too.

    Args:
      devices: the `tf.distribute.Strategy` to build the network for, or None.
      examples: the images where they are listed already, as `sources.load_examples` does.
      settings: further fields of `TrainJob`.

    Raises:
      UserError: the images or the weights are not there, or can't be used.
    """
    started = time.perf_counter()
    augmentation, place = augmentations.compose(recipe.augment), cache.location()
    augmentation.warm(recipe.batch_size, *recipe.image_size)
    if examples is None:
        examples = sources.load_examples(recipe.data)
    # The weights of a run that is resumed are still in its checkpoint.
    phases = [] if run.started() else [phase for phase in recipe.phases if phase.epochs][:1]
    failed = threading.Event()
    pixel_cache = place if recipe.cache in ("auto", "pixels") else NOWHERE
    data = (examples, recipe, run.bad_images, threads, logger.note, pixel_cache, failed.is_set)
    with ThreadPoolExecutor(1, "scan") as pool:
        scan = pool.submit(prepare.prepare_training_data, *data)
        try:
            classifier = setup.build(recipe, examples.classes, run, logger, devices)
            memory = TrialMemory(place.folder, recipe, len(examples.classes))
            compiled = trunk.compile_ahead(classifier, recipe, phases, devices, memory)
            examples, pixels = scan.result()
        except BaseException:
            failed.set()
            raise
    spent = {**settings.pop("spent", {}), "prepare_seconds": time.perf_counter() - started}
    used = pixels.nbytes if pixels and pixels.in_memory else 0
    device = tensorflow_setup.prefetch_device()
    loader = batches.ImageDataLoader(examples, recipe, threads, pixels, device)
    return TrainJob(
        recipe,
        classifier,
        loader,
        augmentation,
        run,
        logger,
        cache_budget=CacheBudget(place.memory - used, place.folder),
        compiled_trunks=compiled,
        spent=spent,
        **settings,
    )
