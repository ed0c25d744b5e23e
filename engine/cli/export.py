"""Exports a trained model to another format, and compares it with the original."""

from __future__ import annotations

import dataclasses
import signal

from absl import flags

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli.flag_types import define_options
from engine.cli.parsed_flags import ParsedFlags
from engine.commands.export import ExportOptions, export
from engine.core.recipe import DataSpec, Recipe
from engine.export import export_source
from engine.export.formats import FORMATS
from engine.loggers.console import ConsoleLogger
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import ShutdownRequested


def define_export(values: flags.FlagValues) -> None:
    define_options(values, ExportOptions)
    cli_flags.define_cache_dir(values)


def main(argv: list[str]) -> None:
    usage = "--run_dir=R --format=F --out=DIR [flags]"
    parsed = command_line.parse(usage, (define_export, cli_flags.define_data), argv, about=__doc__)
    options = export_options(parsed)
    shutdown = cli_main.listen_for_shutdown(None, False)
    try:
        export(options, ConsoleLogger(), shutdown, cli_main.log)
    except ShutdownRequested as error:
        cli_main.log(f"export: stopped by {error}; nothing is left behind")
        raise SystemExit(128 + signal.Signals[str(error)]) from None
    print(f"\nwritten to {options.out}")


def export_options(parsed: ParsedFlags) -> ExportOptions:
    """Raises:
    FlagError: something is missing, or does not go together.
    UserError: there is no run.
    """
    parsed.require(
        run_dir=cli_flags.RUN_DIR_HINT,
        format=f"allowed: {', '.join(FORMATS)}",
        out="name the folder to make",
    )
    if len(FORMATS[parsed.format].precisions) == 1:
        why = f"requires --format=litert; omit it, as {parsed.format} is {export_source.FLOAT32}"
        parsed.refuse(("precision",), why)
    recipe = RunDirectory(parsed.run_dir).read_recipe()
    return parsed.options(
        ExportOptions,
        data=moved_data(parsed, recipe),
        cache=cli_flags.cache_options(parsed, memory=0),
    )


def moved_data(parsed: ParsedFlags, recipe: Recipe) -> DataSpec | None:
    """Where the flags say that the run's images are now; None where they say nothing.

    What they leave open is as the run had it, so that the same images validate.
    """
    data = cli_flags.other_data(parsed)
    if data is None:
        return None
    unset = {name for name in cli_flags.DATA if name not in parsed.explicit}
    return dataclasses.replace(data, **{name: getattr(recipe.data, name) for name in unset})
