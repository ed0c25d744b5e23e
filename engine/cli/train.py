"""Trains a classifier of your own images, phase by phase, on a pretrained network."""

from __future__ import annotations

import os
from pathlib import Path

from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli import recipe_file, train_flags
from engine.commands import memory_probe, train_summary
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.lock import run_lock
from engine.runtime.shutdown import Shutdown


def main(argv: list[str]) -> None:
    parsed = cli_flags.parse("[flags]", train_flags.ALL, argv, about=__doc__)
    begins = beginning(parsed, argv)
    run = RunDirectory(Path(parsed.run_dir or os.path.join("runs", begins.name)))
    stop = cli_main.stop(parsed.preemption_signal, parsed.watch_preemption)
    recipe = begins.recipe
    _require_sources(recipe, going_on=run.started() and not parsed.overwrite)
    with stop.undisguised(), run_lock(run):
        if parsed.batch_size == cli_flags.AUTO:
            begun = None if parsed.overwrite else run
            recipe = memory_probe.settle(recipe, begun, parsed.threads)
        claim_directory(run, recipe, parsed.overwrite, begins.plan)
        with memory_probe.advising(recipe, parsed.threads):
            train(recipe, run, parsed, stop)


def beginning(parsed: cli_flags.Parsed, argv: list[str]) -> recipe_file.Beginning:
    if parsed.recipe is not None:
        return recipe_file.read(parsed.recipe, parsed.given)
    recipe = cli_flags.recipe(parsed)
    name = cli_flags.flagfile_name(argv) or Path(recipe.data.location).name
    return recipe_file.Beginning(recipe, name)


def _require_sources(recipe: Recipe, going_on: bool) -> None:
    """Before anything is said of a run that an earlier recipe left where this one is to write.

    going_on: the weights are in a checkpoint, and the run that they came from may be gone.

    Raises:
      UserError: the images or the run to begin from are not there.
    """
    from pipelines.sources import sources

    sources.require_places(recipe.data)
    began_from = RunDirectory(Path(recipe.init_from)) if recipe.init_from and not going_on else None
    if began_from and not began_from.best.is_file():
        raise UserError(
            f"--init_from={recipe.init_from}: holds no run with a model; name a directory that "
            "bin/train wrote"
        )


def train(recipe: Recipe, run: RunDirectory, parsed: cli_flags.Parsed, stop: Shutdown) -> None:
    threads = cli_main.start_tensorflow(parsed.threads, recipe.deterministic)

    from engine.commands import training_data
    from engine.loggers.console import ConsoleLogger
    from engine.runtime import distribution
    from engine.training import epoch_record, loop, setup
    from pipelines.augment import augment

    names = (
        "checkpoint_minutes",
        "log_every_steps",
        "steps_per_execution",
        "profile_steps",
        "on_nan",
    )
    settings = {name: getattr(parsed, name) for name in names} | {"stop": stop}
    devices = distribution.strategy(
        cli_main.gpus(), recipe.batch_size, recipe.gradient_accumulation_steps
    )
    changes = augment.compose(recipe.augment)
    changes.warm(recipe.batch_size, *recipe.image_size)
    with ConsoleLogger() as terminal, epoch_record.noting_failure(run), stop.undisguised():
        made, loader, more = training_data.ingredients(
            parsed, recipe, run, threads, terminal, devices
        )
        job = setup.prepare(recipe, made, loader, changes, run, terminal, **more, **settings)
        if parsed.show_augmented:
            setup.show_augmented(job, Path(parsed.show_augmented))
        with devices.scope(), stop.patient():
            found = loop.train(job)
            stop.done()  # what is finished is not to be called interrupted
    for line in train_summary.figures(found.result):
        terminal.note(line)
    if parsed.report:
        from engine.commands import reporting

        with devices.scope():
            reporting.after_training(job, found, parsed.price_per_hour)
    terminal.note(f"written to {run.path}; look at it with: {train_summary.tensorboard(run.path)}")
