"""Trains a classifier of your own images, phase by phase, on a pretrained network."""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli import recipe_file
from engine.commands import memory_probe, train_summary
from engine.commands.train import TrainOptions, train
from engine.core.recipe import ON_NAN
from engine.loggers.console import ConsoleLogger

# What batch systems send, and nothing here uses otherwise.
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGURG", "SIGALRM")


def define(values: flags.FlagValues) -> None:
    text = "the run; default: runs/ and the name of the flag file, or of the recipe or its run"
    cli_flags.place(values, "run_dir", None, text)
    flags.DEFINE_string("recipe", None, recipe_file.HELP, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "remove the run that --run_dir holds", flag_values=values)
    cli_flags.number(values, "checkpoint_minutes", 10.0, "between checkpoints within an epoch")
    cli_flags.whole(values, "log_every_steps", 10, "steps between figures", least=1)
    cli_flags.whole(values, "steps_per_execution", None, "measured if not given", least=1)
    flags.DEFINE(
        cli_flags.Span(), "profile_steps", None, "FIRST-LAST, for TensorFlow's profiler", values
    )
    cli_flags.choice(
        values,
        "preemption_signal",
        None,
        SIGNALS,
        "what a scheduler sends before it takes the machine away; ends the run as one SIGTERM does",
    )
    flags.DEFINE_bool(
        "watch_preemption", False, "ask AWS and Google whether they take the machine away", values
    )
    cli_flags.choice(values, "on_nan", "halve", ON_NAN, "halve the rate and go back, or stop")
    flags.DEFINE_bool("report", True, "write report/report.html at the end", flag_values=values)
    cli_flags.price_per_hour(values)
    cli_flags.place(values, "show_augmented", None, "write what the network sees, as PNG")


ALL = (*cli_flags.RUN, define)


def names() -> list[str]:
    """The names of all flags, which other programs pass over where a flag file holds them."""
    return cli_flags.names(ALL)


def main(argv: list[str]) -> None:
    parsed = cli_flags.parse("[flags]", ALL, argv, about=__doc__)
    options = train_options(parsed, argv)
    shutdown = cli_main.stop(parsed.preemption_signal, parsed.watch_preemption)
    try:
        with ConsoleLogger() as console:
            run = train(options, console, shutdown).run
    except memory_probe.OutOfMemoryError as error:
        memory_probe.become_adviser(error.recipe, options.threads)
    print(f"written to {run.path}; look at it with: {train_summary.tensorboard(run.path)}")


def train_options(parsed: cli_flags.Parsed, argv: list[str]) -> TrainOptions:
    """Raises:
    FlagError: a value does not fit, or no images are named.
    """
    if parsed.recipe is not None:
        start = recipe_file.read(parsed.recipe, parsed.given)
    else:
        recipe = cli_flags.recipe(parsed)
        name = cli_flags.flagfile_name(argv) or Path(recipe.data.location).name
        start = recipe_file.Beginning(recipe, name)
    return TrainOptions(
        recipe=start.recipe,
        run_dir=Path(parsed.run_dir or os.path.join("runs", start.name)),
        plan=start.plan,
        fit_memory=parsed.batch_size == cli_flags.AUTO,
        threads=parsed.threads,
        cache=cli_flags.cache_options(parsed, parsed.cache_memory),
        overwrite=parsed.overwrite,
        checkpoint_minutes=parsed.checkpoint_minutes,
        log_every_steps=parsed.log_every_steps,
        steps_per_execution=parsed.steps_per_execution,
        profile_steps=parsed.profile_steps,
        on_nan=parsed.on_nan,
        report=parsed.report,
        price_per_hour=parsed.price_per_hour,
        show_augmented=Path(parsed.show_augmented) if parsed.show_augmented else None,
        command=cli_main.command_line(argv),
    )
