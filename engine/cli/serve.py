"""Serves a run's predictions over HTTP, with a page to drop images on."""

from __future__ import annotations

import signal
from pathlib import Path

from absl import flags

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli.command_line import FlagError, ParsedFlags, flag_names
from engine.cli.flag_types import (
    define_choice,
    define_integer,
    define_number,
    define_path,
    define_switch,
    define_text,
)
from engine.commands.load_test import LoadTestOptions, measure_service
from engine.commands.serve import PRECISIONS, ServeOptions, serve
from engine.loggers.console import ConsoleLogger
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown

LOAD_TEST_FLAGS = ("requests", "connections")


def define_serve(values: flags.FlagValues) -> None:
    define_path(values, "run_dir", None, "run whose best model predicts")
    text = "address to listen at; 0.0.0.0 for all of this machine"
    define_text(values, "host", "127.0.0.1", text)
    define_integer(values, "port", 8501, "port to listen at, up to 65535; 0 for any free one")
    text = "further names of this machine in requests, such as a.example,b"
    define_text(values, "allow_host", None, text)
    text = "of the frozen layers; auto measures the fastest"
    define_choice(values, "precision", "float32", PRECISIONS, text)
    define_integer(values, "batch_size", 32, "most images in a batch", minimum=1)
    text = "milliseconds that an image may wait for others that are being decoded"
    define_number(values, "max_batch_delay_ms", 5, text)
    text = "images that may wait; more are refused"
    define_integer(values, "max_queue_size", 256, text, minimum=1)
    define_number(values, "max_mb", 16, "size of a file; a request may have four times as much")
    define_integer(values, "max_files", 32, "files in a request", minimum=1)
    define_number(values, "timeout_seconds", 30, "seconds that a request may take")
    cli_flags.define_threads(values)


def define_load_test(values: flags.FlagValues) -> None:
    text = "send the images that follow, and print the rate and the latency"
    define_switch(values, "load_test", False, text)
    text = "requests of --load_test, of one image each"
    define_integer(values, "requests", 200, text, minimum=1)
    define_integer(values, "connections", 16, "connections of --load_test", minimum=1)


def main(argv: list[str]) -> None:
    usage = "--run_dir=R [flags] | --run_dir=R --load_test FILE|FOLDER ..."
    parsed = command_line.parse(usage, (define_serve, define_load_test), argv, about=__doc__)
    console = ConsoleLogger()
    options = serve_options(parsed)
    if not parsed.load_test:
        shutdown = Shutdown()
        shutdown.install_handlers([signal.SIGINT, signal.SIGTERM])
        serve(options, console, shutdown)
        return
    RunDirectory(options.run_dir).read_recipe()
    result = measure_service(load_test_options(parsed), console, cli_main.log)
    for line in result.lines():
        print(line)


def serve_options(parsed: ParsedFlags) -> ServeOptions:
    """Raises:
    FlagError: something is missing, or does not go together.
    """
    parsed.require(run_dir=cli_flags.RUN_DIR_HINT)
    stray = [name for name in parsed.explicit if name in LOAD_TEST_FLAGS]
    if not parsed.load_test and (stray or parsed.arguments):
        what = f"--{stray[0]}" if stray else repr(parsed.arguments[0])
        raise FlagError(f"{what} requires --load_test")
    hosts = tuple(cli_flags.split_names((parsed.allow_host or "").lower()))
    return parsed.options(ServeOptions, run_dir=Path(parsed.run_dir), allowed_hosts=hosts)


def load_test_options(parsed: ParsedFlags) -> LoadTestOptions:
    service = parsed.as_flags(flag_names([define_serve]))
    return parsed.options(LoadTestOptions, service=service, images=parsed.arguments)
