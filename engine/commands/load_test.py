"""Measures a service in its own process by sending images from this one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from engine.commands.serve import ServeOptions
from engine.core.errors import UserError, require
from engine.core.options import check_options, option
from engine.core.text import printable
from engine.loggers.base import Logger, LoggerGroup
from engine.runtime import child_process, tensorflow_setup
from engine.serving import load_test
from engine.serving.load_test import LoadTestRun
from pipelines.sources.examples import read_bytes

WARM_UP = 16  # images sent before the measurement
SHUTDOWN_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class LoadTestOptions:
    """What to send to which service.

    service: listens at any free port, whatever its options say.
    images: files and folders; few images are sent repeatedly.
    """

    service: ServeOptions
    images: Sequence[str]
    requests: int = option(200, "requests of --load_test, of one image each", minimum=1)
    connections: int = option(16, "connections of --load_test", minimum=1)

    def __post_init__(self) -> None:
        check_options(self)
        require(bool(self.images), "--load_test: no image is named; give files or folders")


@dataclasses.dataclass(frozen=True)
class LoadTestResult:
    """The results of the same images, sent one at a time and on several connections."""

    sequential: LoadTestRun
    concurrent: LoadTestRun
    connections: int

    def lines(self) -> Iterator[str]:
        """Yields the lines of the report."""
        for name, run in (
            ("one at a time", self.sequential),
            (f"on {self.connections} connections", self.concurrent),
        ):
            median, p99 = 1000 * np.quantile(run.latencies, (0.5, 0.99), method="inverted_cdf")
            yield (
                f"{name:20} {run.rate:8.1f} images/s  latency: median {median:.1f} ms, "
                f"99 % within {p99:.1f} ms"
            )
        yield (
            f"ratio {self.concurrent.rate / self.sequential.rate:.2f}; probabilities differ by up "
            f"to {load_test.max_difference(self.sequential, self.concurrent):.1e}"
        )


def measure_service(
    options: LoadTestOptions,
    logger: Logger | None = None,
    warn: Callable[[str], None] | None = None,
) -> LoadTestResult:
    """Measures the images/s of a service, one at a time and on several connections.

    Args:
      warn: receives a line where the service ends with an error; the logger by default.

    Raises:
      UserError: an image can't be read, or the service does not start or respond.
    """
    logger = logger or LoggerGroup(())
    images = _read_images(options)
    with _service(options.service, logger, warn or logger.note) as address:
        asyncio.run(load_test.send_images(address, images[:WARM_UP], options.connections))
        sequential = asyncio.run(load_test.send_images(address, images, 1))
        concurrent = asyncio.run(load_test.send_images(address, images, options.connections))
    return LoadTestResult(sequential, concurrent, options.connections)


def _read_images(options: LoadTestOptions) -> list[tuple[str, bytes]]:
    """Reads the name and contents of an image for each request."""
    tensorflow_setup.start_tensorflow(options.service.threads)
    from pipelines.predict import find_images

    paths = itertools.islice(find_images.find_images(options.images), options.requests)
    files = [(printable(path), _read(path)) for path in paths]
    return [files[index % len(files)] for index in range(options.requests)]


def _read(path: str) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise UserError(
            f"{printable(path)} can't be read: {error.strerror or error}; "
            "--load_test takes files and folders"
        ) from None


@contextlib.contextmanager
def _service(options: ServeOptions, logger: Logger, warn: Callable[[str], None]) -> Iterator[str]:
    """Runs a service during the block; yields its address."""
    values = {**vars(options), "allow_host": ",".join(options.allow_host), "port": 0}
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    process = subprocess.Popen(
        child_process.module_command("engine.cli", "serve", *flags),
        env=child_process.module_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        address = ""
        for line in process.stdout:
            address = address or line.split()[0]
            if line.startswith("ready"):
                logger.note(line.rstrip())
                break
        else:
            raise UserError("the service did not start; its messages are above")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SHUTDOWN_SECONDS)
        process.kill()
        process.wait()
        process.stdout.close()
    if process.returncode:
        warn(f"the service ended with status {process.returncode}")
