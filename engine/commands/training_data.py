"""Prepares a training job: images listed, network built, first pass over the images."""

from __future__ import annotations

from typing import Any

from engine.commands.shared_options import CacheOptions
from engine.core.recipe import Recipe
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.loggers.base import Logger
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from engine.training import setup
from engine.training.job import TrainJob
from pipelines.augment import augmentations
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import NOWHERE
from pipelines.sources import sources


def prepare_job(
    recipe: Recipe,
    run: RunDirectory,
    cache: CacheOptions,
    threads: int,
    logger: Logger,
    devices: Any = None,
    **settings: Any,
) -> TrainJob:
    """Lists a run's images, builds its network, scans the images, and returns the job.

    The network is built before the scan: without its weights no image needs to be decoded. The
    first phase's frozen layers are compiled during the first pass over the images.

    Args:
      devices: the `tf.distribute.Strategy` to build the network for, or None.
      settings: further fields of `TrainJob`.

    Raises:
      UserError: the images or the weights are not there, or can't be used.
    """
    augmentation, place = augmentations.compose(recipe.augment), cache.location()
    augmentation.warm(recipe.batch_size, *recipe.image_size)
    examples = sources.load_examples(recipe.data)
    classifier = setup.build(recipe, examples.classes, run, logger, devices)
    # The weights of a run that is resumed are still in its checkpoint.
    phases = [] if run.started() else [phase for phase in recipe.phases if phase.epochs][:1]
    with trunk.compile_in_background(classifier, recipe, phases, devices) as compiled:
        pixel_cache = place if recipe.cache in ("auto", "pixels") else NOWHERE
        examples, pixels = prepare.prepare_training_data(
            examples, recipe, run.bad_images, threads, logger.note, pixel_cache
        )
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
        **settings,
    )
