"""Trains a classifier by a recipe into a run directory, or resumes the run that is there."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands import memory_probe, train_summary
from engine.commands.shared_options import CacheOptions, ProcessOptions, price_per_hour_option
from engine.core.errors import UserError
from engine.core.options import option
from engine.core.recipe import ON_NAN, Recipe
from engine.core.text import program
from engine.loggers.base import Logger, LoggerGroup
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from engine.evaluation.evaluate import Predictions
    from pipelines.sources.examples import Examples

# Fields of both TrainOptions and TrainJob.
JOB_OPTIONS = (
    *("on_nan", "checkpoint_minutes", "log_every_steps", "steps_per_execution", "profile_steps"),
)


@dataclasses.dataclass(frozen=True)
class TrainOptions(ProcessOptions):
    """What to train, where to, and how this process goes about it.

    recipe: what describes the run; a run of the same recipe in `run_dir` is resumed.
    plan: the bytes of a `plan.json` that a new run follows; None to measure and decide.
    fit_memory: choose the recipe's `gradient_accumulation_steps` so that a batch fits in memory.
    profile_steps: the first and the last step.
    command: the command that the report names.
    """

    recipe: Recipe
    run_dir: Path
    plan: bytes | None = None
    fit_memory: bool = False
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)
    overwrite: bool = option(False, "remove the run that --run_dir holds")
    checkpoint_minutes: float = option(10.0, "between checkpoints within an epoch", minimum=0)
    log_every_steps: int = option(10, "steps between log lines", minimum=1)
    steps_per_execution: int | None = option(None, "steps per call; default: measured", minimum=1)
    profile_steps: tuple[int, int] | None = option(None, "steps for TensorFlow's profiler")
    on_nan: str = option(
        "halve",
        "for a NaN or infinite loss: halve the learning rate and roll back, or stop",
        choices=ON_NAN,
    )
    report: bool = option(True, "write report/report.html at the end")
    price_per_hour: float | None = price_per_hour_option()
    command: str = "unfreeze.train(...)"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run ended with.

    result: the values of its `result.json`.
    predictions: the saved model's, by split: `validation`, and `test` where there is one.
    report_error: why there is no report, where one was to be written; the run is finished.
    """

    run: RunDirectory
    result: dict[str, Any]
    predictions: dict[str, Predictions]
    report_error: str | None = None


def train(
    options: TrainOptions, logger: Logger | None = None, shutdown: Shutdown | None = None
) -> TrainResult:
    """Trains all phases of a recipe, from the newest checkpoint where there is one.

    Args:
      logger: receives what there is to say; nothing is printed without one.
      shutdown: what may ask the run to end from outside.

    Raises:
      UserError: the options don't fit what is there. OutOfMemoryError: the batch is too large.
      ShutdownRequested: the run was asked to end; it is saved.
    """
    logger, shutdown = logger or LoggerGroup(()), shutdown or Shutdown()
    run, recipe = RunDirectory(Path(options.run_dir)), options.recipe
    examples = _list_images(recipe, resumes=run.started() and not options.overwrite)
    with shutdown.unmasked(), RunLock(run) as lock:
        if options.fit_memory:
            resumed = None if options.overwrite else run
            recipe = memory_probe.fit_accumulation_steps(recipe, resumed, options.threads)
        claim_directory(run, recipe, options.overwrite, options.plan)
        with memory_probe.raise_out_of_memory(recipe):
            options = dataclasses.replace(options, recipe=recipe)
            return _train(options, examples, lock, logger, shutdown)


def _list_images(recipe: Recipe, resumes: bool) -> Examples | None:
    """Lists the images, before TensorFlow starts and before anything is said of an earlier run.

    resumes: the weights are in a checkpoint, and the run that they came from may be gone.

    Returns:
      None for TensorFlow Datasets, which need TensorFlow.

    Raises:
      UserError: the images or the run to begin from are not there, or can't be used.
    """
    from pipelines.sources import sources

    sources.require_locations(recipe.data)
    start = None if resumes else recipe.init_from
    if start and not RunDirectory(Path(start)).best.is_file():
        raise UserError(
            f"--init_from={recipe.init_from}: holds no run with a model; name a directory that "
            f"{program('train')} wrote"
        )
    return None if recipe.data.source == "tfds" else sources.load_examples(recipe.data)


def _train(
    options: TrainOptions,
    examples: Examples | None,
    lock: RunLock,
    logger: Logger,
    shutdown: Shutdown,
) -> TrainResult:
    run, recipe, started = lock.run, options.recipe, time.perf_counter()
    threads = tensorflow_setup.start_tensorflow(
        options.threads, recipe.deterministic, log=logger.note
    )

    from engine.commands import training_data
    from engine.runtime import distribution
    from engine.training import loop, setup

    devices = distribution.choose_strategy(
        tensorflow_setup.list_gpus(), recipe.batch_size, recipe.gradient_accumulation_steps
    )
    spent = {"start_seconds": time.perf_counter() - started}
    with lock.record_failure(), shutdown.unmasked():
        settings = {name: getattr(options, name) for name in JOB_OPTIONS}
        job = training_data.prepare_job(
            recipe,
            run,
            options.cache,
            threads,
            logger,
            devices,
            examples,
            lock=lock,
            shutdown=shutdown,
            started=started,
            spent=spent,
            **settings,
        )
        job = setup.start_logging(job)
        with devices.scope(), shutdown.deferred():
            final = loop.train(job)
            shutdown.disarm()  # what is finished is not to be called interrupted
    for line in train_summary.describe_accuracy(final.result):
        logger.note(line)
    report_error = None
    if options.report:
        from engine.commands import reporting

        with devices.scope():
            report_error = reporting.write_training_report(
                job, final, options.command, options.price_per_hour
            )
    return TrainResult(run, final.result, final.predictions, report_error)
