"""Serves a run's predictions over HTTP, with a page to drop images on."""

from __future__ import annotations

import signal

from absl import flags

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli.flag_types import define_options, define_switch
from engine.cli.parsed_flags import FlagError, ParsedFlags
from engine.commands.load_test import LoadTestOptions, measure_service
from engine.commands.serve import ServeOptions, serve
from engine.core.options import declared_options
from engine.loggers.console import ConsoleLogger
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown


def define_serve(values: flags.FlagValues) -> None:
    define_options(values, ServeOptions)
    text = "send the images that follow, and print the rate and the latency"
    define_switch(values, "load_test", False, text)
    define_options(values, LoadTestOptions)


def main(argv: list[str]) -> None:
    usage = "--run_dir=R [flags] | --run_dir=R --load_test FILE|FOLDER ..."
    parsed = command_line.parse(usage, (define_serve,), argv, about=__doc__)
    console = ConsoleLogger()
    options = serve_options(parsed)
    if not parsed.load_test:
        shutdown = Shutdown()
        shutdown.install_handlers([signal.SIGINT, signal.SIGTERM])
        serve(options, console, shutdown)
        return
    RunDirectory(options.run_dir).read_recipe()
    for line in measure_service(load_test_options(parsed), console, cli_main.log).lines():
        print(line)


def serve_options(parsed: ParsedFlags) -> ServeOptions:
    """Raises:
    FlagError: something is missing, or does not go together.
    """
    parsed.require(run_dir=cli_flags.RUN_DIR_HINT)
    if not parsed.load_test:
        parsed.refuse(declared_options(LoadTestOptions), "requires --load_test")
        if parsed.arguments:
            raise FlagError(f"{parsed.arguments[0]!r} requires --load_test")
    return parsed.options(ServeOptions)


def load_test_options(parsed: ParsedFlags) -> LoadTestOptions:
    service = serve_options(parsed)
    return parsed.options(LoadTestOptions, service=service, images=parsed.arguments)
