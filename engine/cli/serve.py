"""Answers over HTTP what images show, by a run's model; with a page to drop images on."""

from __future__ import annotations

import signal
from pathlib import Path

from absl import flags

from engine.cli import flags as cli_flags
from engine.commands.load_test import LoadTestOptions, measure_service
from engine.commands.serve import PRECISIONS, ServeOptions, serve
from engine.loggers.console import ConsoleLogger
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown

LOAD_TEST_FLAGS = ("requests", "connections")


def define(values: flags.FlagValues) -> None:
    text, whole, number = flags.DEFINE_string, cli_flags.whole, cli_flags.number
    cli_flags.place(values, "run_dir", None, "the run whose best model answers")
    text("host", "127.0.0.1", "address to listen at; 0.0.0.0 for all of this machine", values)
    whole(values, "port", 8501, "to listen at, up to 65535; 0 for any free one")
    text("allow_host", None, "names that others reach this machine by, such as a.example,b", values)
    cli_flags.choice(
        values, "precision", "float32", PRECISIONS, "of the frozen layers; auto measures"
    )
    whole(values, "batch_size", 32, "images in a batch at most", least=1)
    number(values, "max_batch_delay_ms", 5, "that an image may wait for others being decoded")
    whole(values, "max_queue_size", 256, "images that may wait; more are refused", least=1)
    number(values, "max_mb", 16, "of a file; a request may have four times as much")
    whole(values, "max_files", 32, "in a request", least=1)
    number(values, "timeout_seconds", 30, "that a request may take")
    cli_flags.threads(values)


def define_load_test(values: flags.FlagValues) -> None:
    text = "send the images that follow, and print the rate and the latency"
    flags.DEFINE_bool("load_test", False, text, values)
    cli_flags.whole(values, "requests", 200, "with --load_test: of one image each", least=1)
    cli_flags.whole(values, "connections", 16, "with --load_test: at a time", least=1)


def main(argv: list[str]) -> None:
    usage = "--run_dir=R [flags] | --run_dir=R --load_test FILE|FOLDER ..."
    parsed = cli_flags.parse(usage, (define, define_load_test), argv, about=__doc__)
    console = ConsoleLogger()
    options = serve_options(parsed)
    if not parsed.load_test:
        shutdown = Shutdown()
        shutdown.install_handlers([signal.SIGINT, signal.SIGTERM])
        serve(options, console, shutdown)
        return
    RunDirectory(options.run_dir).read_recipe()
    result = measure_service(load_test_options(parsed), console)
    for line in result.lines():
        print(line)


@cli_flags.as_flag_errors()
def serve_options(parsed: cli_flags.Parsed) -> ServeOptions:
    """Raises:
    FlagError: something is missing, or does not go together.
    """
    cli_flags.require(parsed, run_dir=cli_flags.RUN_DIR_HINT)
    stray = [name for name in parsed.given if name in LOAD_TEST_FLAGS]
    if not parsed.load_test and (stray or parsed.words):
        what = f"--{stray[0]}" if stray else repr(parsed.words[0])
        raise cli_flags.FlagError(f"{what} requires --load_test")
    return ServeOptions(
        run_dir=Path(parsed.run_dir),
        host=parsed.host,
        port=parsed.port,
        allowed_hosts=tuple(cli_flags.words((parsed.allow_host or "").lower())),
        precision=parsed.precision,
        batch_size=parsed.batch_size,
        max_batch_delay_ms=parsed.max_batch_delay_ms,
        max_queue_size=parsed.max_queue_size,
        max_mb=parsed.max_mb,
        max_files=parsed.max_files,
        timeout_seconds=parsed.timeout_seconds,
        threads=parsed.threads,
    )


@cli_flags.as_flag_errors()
def load_test_options(parsed: cli_flags.Parsed) -> LoadTestOptions:
    return LoadTestOptions(
        service=parsed.as_flags(cli_flags.names([define])),
        images=parsed.words,
        requests=parsed.requests,
        connections=parsed.connections,
        threads=parsed.threads,
    )
