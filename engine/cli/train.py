"""Trains a classifier of your own images, phase by phase, on a pretrained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from engine.cli import command_line, recipe_file
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli.flag_types import (
    AUTO,
    Choice,
    define,
    define_options,
    define_path,
    define_switch,
    define_text,
)
from engine.cli.parsed_flags import ParsedFlags
from engine.commands import memory_probe, train_summary
from engine.commands.shared_options import Log, ignore
from engine.commands.train import TrainOptions, train
from engine.core.options import declared_options
from engine.core.recipe import DataSpec, Recipe, phase_text
from engine.loggers.console import ConsoleLogger

# What batch systems send, and nothing here uses otherwise.
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGURG", "SIGALRM")


def define_train(values: flags.FlagValues) -> None:
    text = "folder of the run; default: runs/ and the name of the flag file, recipe or images"
    define_path(values, "run_dir", None, text)
    define_text(values, "recipe", None, recipe_file.HELP)
    define_options(values, TrainOptions)
    text = "what a scheduler sends before it takes the machine away; ends the run as a SIGTERM does"
    define(values, "preemption_signal", None, Choice(SIGNALS), text)
    text = "ask AWS and Google whether they take the machine away"
    define_switch(values, "watch_preemption", False, text)
    text = "print the run as a flag file, to edit and to give as --flagfile, and train nothing"
    define_switch(values, "print_flags", False, text)


ALL = (*cli_flags.RUN, define_train)


def names() -> list[str]:
    """Names of all flags, which other programs ignore where a flag file holds them."""
    return command_line.flag_names(ALL)


def main(argv: list[str]) -> None:
    parsed = command_line.parse("[flags]", ALL, argv, about=__doc__)
    notes: list[str] = []
    options = train_options(parsed, argv, notes.append)
    if parsed.print_flags:
        print(*(f"# {note}" for note in notes), *flag_lines(options.recipe), sep="\n")
        return
    shutdown = cli_main.listen_for_shutdown(parsed.preemption_signal, parsed.watch_preemption)
    try:
        with ConsoleLogger() as console:
            for note in notes:
                console.note(note)
            result = train(options, console, shutdown)
            if result.report_error:
                cli_main.log(f"train: {result.report_error}")
            path = result.run.path
            command = train_summary.tensorboard_command(path)
            console.note(f"written to {path}; look at it with: {command}")
    except memory_probe.OutOfMemoryError as error:
        memory_probe.become_adviser(error.recipe, options.threads)


def train_options(parsed: ParsedFlags, argv: list[str], log: Log = ignore) -> TrainOptions:
    """
    Args:
      log: receives what a preset chose.

    Raises:
      FlagError: a value does not fit, or no images are named.
    """
    if parsed.recipe is not None:
        why = (
            "belongs to the recipe, which --recipe gives whole; omit it, or edit a copy of the file"
        )
        parsed.refuse(cli_flags.recipe_flags(), why, unset=True)
        file = recipe_file.read(parsed.recipe)
        recipe, name, plan = file.recipe, file.name, file.plan
    else:
        recipe, plan = cli_flags.build_recipe(parsed, log), None
        flagfile = None if parsed.other_data else command_line.flagfile_name(argv)
        name = flagfile or Path(recipe.data.location).name
    return parsed.options(
        TrainOptions,
        recipe=recipe,
        run_dir=parsed.run_dir or Path("runs", name),
        plan=plan,
        fit_memory=parsed.batch_size == AUTO,
        cache=cli_flags.cache_options(parsed, parsed.cache_memory),
        command=cli_main.command_text(argv),
    )


def flag_lines(recipe: Recipe) -> Iterator[str]:
    """Yields the flags that make this recipe, one a line, without those that are defaults."""
    data = recipe.data
    source = next(flag for flag, name in cli_flags.SOURCE_FLAGS.items() if name == data.source)
    yield f"--{source}={data.location}"
    for flag, value in (("val_dir", data.validation_location), ("test_dir", data.test_location)):
        if value:
            yield f"--{flag}={value}"
    yield from _option_lines(data)
    yield f"--backbone={recipe.backbone}"
    yield f"--image_size={'x'.join(map(str, recipe.image_size))}"
    yield f"--augment={'|'.join(map(str, recipe.augment)) or 'none'}"
    yield from _option_lines(recipe)
    yield from (f"--phase={phase_text(phase)}" for phase in recipe.phases)


def _option_lines(spec: DataSpec | Recipe) -> Iterator[str]:
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name not in declared_options(type(spec)) or value == field.default:
            continue
        number = f"{value:.15g}s" if field.name == "budget" else value
        yield f"--{field.name}" if value is True else f"--{field.name}={number}"


def recipe_from_flags(*arguments: str) -> Recipe:
    """The recipe that bin/train makes from these flags, such as `--flagfile=solar_cells.flags`.

    Raises:
      UserError: a flag does not exist, a value is not allowed, or no images are named.
    """
    argv = ["train", *arguments]
    return train_options(command_line.parse("[flags]", ALL, argv), argv).recipe
