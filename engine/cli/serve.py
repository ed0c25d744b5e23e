"""Answers over HTTP what images show, by a run's model; with a page to drop images on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from engine.cli import flags as cli_flags
from engine.core.text import printable
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.serving import server
from engine.serving.batcher import BatchingOptions, sizes
from engine.serving.limits import MB, Limits
from engine.serving.service import Model, Service

if TYPE_CHECKING:
    import socket

LOCAL = ("localhost",)
PRECISIONS = ("float32", "auto")
MEASURING = ("requests", "connections")


def define(values: flags.FlagValues) -> None:
    text, whole, number = flags.DEFINE_string, cli_flags.whole, cli_flags.number
    cli_flags.place(values, "run_dir", None, "the run whose best model answers")
    text("host", "127.0.0.1", "address to listen at; 0.0.0.0 for all of this machine", values)
    whole(values, "port", 8501, "to listen at; 0 for any free one")
    text("allow_host", None, "names that others reach this machine by, as a.example,b", values)
    cli_flags.choice(
        values, "precision", "float32", PRECISIONS, "of the frozen part; auto tries what is fastest"
    )
    whole(values, "batch_size", 32, "images at a time, at most", least=1)
    number(values, "batch_wait_ms", 5, "that an image may wait for others being decoded")
    whole(values, "queue", 256, "images that may wait; more are refused", least=1)
    number(values, "max_mb", 16, "of a file; a request may have four times as much")
    whole(values, "max_files", 32, "in a request", least=1)
    number(values, "timeout_seconds", 30, "that a request may take")
    whole(values, "threads", None, "CPU threads; all cores if not given", least=1)


def define_measuring(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("measure", False, "send the images that follow, and say how fast", values)
    cli_flags.whole(values, "requests", 200, "with --measure: of one image each", least=1)
    cli_flags.whole(values, "connections", 16, "with --measure: at a time", least=1)


def main(argv: list) -> None:
    usage = "--run_dir=R [flags] | --run_dir=R --measure FILE|FOLDER ..."
    parsed = cli_flags.parse(usage, (define, define_measuring), argv, about=__doc__)
    check(parsed)
    run = RunDirectory(Path(parsed.run_dir))
    run.read_recipe()
    if parsed.measure:
        from engine.commands import load_test

        own = parsed.as_flags(cli_flags.names([define]))
        load_test.measure([sys.executable, argv[0], *own, "--port=0"], parsed)
        return
    with contextlib.closing(server.bind(parsed.host, parsed.port)) as bound:
        threads = tensorflow_setup.start_tensorflow(parsed.threads, inter_op_threads=None)
        with contextlib.suppress(ShutdownRequested):
            asyncio.run(serve(run, bound, parsed, threads))


def check(parsed: cli_flags.Parsed) -> None:
    if not parsed.run_dir:
        raise cli_flags.FlagError("--run_dir is missing; give the directory that bin/train wrote")
    stray = [name for name in parsed.given if name in MEASURING]
    if not parsed.measure and (stray or parsed.words):
        what = f"--{stray[0]}" if stray else repr(parsed.words[0])
        raise cli_flags.FlagError(f"{what} has no use here; it goes with --measure")
    if parsed.port > 65535:
        raise cli_flags.FlagError(f"--port={parsed.port}; allowed: 0 to 65535")
    if parsed.queue < parsed.max_files:
        raise cli_flags.FlagError(
            f"--queue={parsed.queue} is less than --max_files={parsed.max_files}; "
            "a request with so many would never be answered"
        )
    for name in allowed_hosts(parsed):
        if ":" in name or "/" in name:
            raise cli_flags.FlagError(
                f"--allow_host={name}; allowed: names such as a.example, without http:// and port"
            )
    for name in ("max_mb", "timeout_seconds"):
        if not getattr(parsed, name):
            raise cli_flags.FlagError(f"--{name}=0; allowed: a number above 0")


def allowed_hosts(parsed: cli_flags.Parsed) -> list[str]:
    return cli_flags.words((parsed.allow_host or "").lower())


async def serve(
    run: RunDirectory, bound: socket.socket, parsed: cli_flags.Parsed, threads: int
) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def asked() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(stopping.set)

    stop = Shutdown(asked)
    stop.on([signal.SIGINT, signal.SIGTERM])
    limits = Limits(int(parsed.max_mb * MB), parsed.max_files, parsed.timeout_seconds)
    names = (*LOCAL, parsed.host.lower(), *allowed_hosts(parsed))
    print(f"{server.address(bound)} loading {printable(str(run.path))}", flush=True)
    with stop.patient():
        await server.run(
            Service(limits, names),
            bound,
            lambda: load(run, parsed, threads, stop),
            stopping,
            lambda model: print(f"ready: {in_words(model.about)}", flush=True),
        )


def load(
    run: RunDirectory, parsed: cli_flags.Parsed, threads: int, stop: Shutdown
) -> tuple[Model, BatchingOptions]:
    from engine.serving import model

    made = model.load(run, parsed.precision, lambda line: print(line, flush=True))
    seconds = model.seconds(made, stop.checked(sizes(parsed.batch_size)))
    about = {
        "run": run.path.resolve().name,
        "model": run.read_recipe().backbone,
        "precision": str(made.program),
        "image_size": list(made.image_size),
    }
    decode, predict = decoder(made.image_size, made.resize), functools.partial(model.answers, made)
    served = Model(decode, predict, made.classes, made.rule, about)
    return served, BatchingOptions(seconds, parsed.queue, parsed.batch_wait_ms / 1000, threads)


def decoder(image_size: tuple, resize: str) -> Any:
    """bytes -> uint8 [H, W, 3]; a UserError says why an image can't be read."""
    import tensorflow as tf

    from engine.core.errors import UserError
    from pipelines.decode import decode

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def pixels(contents: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):
            return decode.decode(contents, *image_size, resize)

    def read(contents: bytes) -> Any:
        try:
            return pixels(contents).numpy()
        except tf.errors.OpError as error:
            raise UserError(decode.reason(error)) from None

    read(tf.io.encode_png(tf.zeros([2, 2, 3], tf.uint8)).numpy())  # compiles
    return read


def in_words(about: dict) -> str:
    height, width = about["image_size"]
    return f"{about['model']} at {height}x{width}, {about['precision']}"
