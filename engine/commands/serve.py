"""Serves predictions of a run's best model over HTTP, with a page to drop images on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.shared_options import ProcessOptions
from engine.core.errors import require
from engine.core.options import REQUIRED, option
from engine.core.text import printable
from engine.loggers.base import Logger, LoggerGroup
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.serving import server
from engine.serving.batcher import BatchingOptions, batch_sizes
from engine.serving.limits import MB, Limits
from engine.serving.service import Model, Service

if TYPE_CHECKING:
    import socket

PRECISIONS = ("float32", "auto")
LOCAL_HOST = "localhost"
READY = "ready: {model} at {image_size[0]}x{image_size[1]}, {precision}"


@dataclasses.dataclass(frozen=True)
class ServeOptions(ProcessOptions):
    """Which model to serve, at which address, and the limits of requests."""

    run_dir: Path = option(REQUIRED, "run whose best model predicts")
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 for all of this machine")
    port: int = option(8501, "port to listen at; 0 for any free one", minimum=0, maximum=65535)
    allow_host: tuple[str, ...] = option(
        (), "further names of this machine in requests, such as a.example,b"
    )
    precision: str = option(
        "float32", "of the frozen layers; auto measures the fastest", choices=PRECISIONS
    )
    batch_size: int = option(32, "most images in a batch", minimum=1)
    max_batch_delay_ms: float = option(
        5, "milliseconds that an image may wait for others that are being decoded", minimum=0
    )
    max_queue_size: int = option(256, "images that may wait; more are refused", minimum=1)
    max_mb: float = option(16, "size of a file; a request may have four times as much", above=0)
    max_files: int = option(32, "files in a request", minimum=1)
    timeout_seconds: float = option(30, "seconds that a request may take", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.max_queue_size >= self.max_files,
            f"--max_queue_size={self.max_queue_size} is less than --max_files={self.max_files}; "
            "a request with so many files could never be accepted",
        )
        for name in self.allow_host:
            require(
                ":" not in name and "/" not in name,
                f"--allow_host={name}; allowed: names such as a.example, without http:// and port",
            )


def serve(
    options: ServeOptions, logger: Logger | None = None, shutdown: Shutdown | None = None
) -> None:
    """Serves until the shutdown is requested; returns when every pending request is answered.

    Args:
      logger: receives the address first, and a line that begins with `ready` when images are
        answered; nothing is printed without one.

    Raises:
      UserError: the run is missing or has no model, or the address is not available.
    """
    logger, shutdown = logger or LoggerGroup(()), shutdown or Shutdown()
    run = RunDirectory(Path(options.run_dir))
    run.read_recipe()
    with (
        contextlib.suppress(ShutdownRequested),
        shutdown.unmasked(),
        contextlib.closing(server.bind(options.host, options.port)) as bound,
    ):
        threads = tensorflow_setup.start_tensorflow(
            options.threads, inter_op_threads=None, log=logger.note
        )
        asyncio.run(_serve(options, run, bound, threads, logger, shutdown))


async def _serve(
    options: ServeOptions,
    run: RunDirectory,
    bound: socket.socket,
    threads: int,
    logger: Logger,
    shutdown: Shutdown,
) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(stopping.set)

    shutdown.on_request(stop)
    limits = Limits(int(options.max_mb * MB), options.max_files, options.timeout_seconds)
    names = (LOCAL_HOST, *map(str.lower, (options.host, *options.allow_host)))
    logger.note(f"{server.address(bound)} loading {printable(str(run.path))}")
    with shutdown.deferred():
        await server.run(
            Service(limits, names),
            bound,
            lambda: _load(options, run, threads, logger, shutdown),
            stopping,
            lambda model: logger.note(READY.format(**model.about)),
        )


def _load(
    options: ServeOptions, run: RunDirectory, threads: int, logger: Logger, shutdown: Shutdown
) -> tuple[Model, BatchingOptions]:
    from engine.serving import served_model
    from pipelines.decode import decode

    predictor = served_model.load(run, options.precision, logger.note)
    seconds = served_model.measure_batches(
        predictor, shutdown.check_each(batch_sizes(options.batch_size))
    )
    about = {
        "run": run.path.resolve().name,
        "model": run.read_recipe().backbone,
        "precision": str(predictor.mode),
        "image_size": list(predictor.image_size),
    }
    model = Model(
        decode.make_decoder(predictor.image_size, predictor.resize),
        functools.partial(served_model.predict, predictor),
        predictor.classes,
        predictor.rule,
        about,
    )
    delay = options.max_batch_delay_ms / 1000
    return model, BatchingOptions(seconds, options.max_queue_size, delay, threads)
