"""Measures a service in its own process by sending images from this one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import aiohttp
import numpy as np

from engine.commands.serve import ServeOptions
from engine.core.errors import UserError, require
from engine.core.options import check_options, option
from engine.core.text import printable
from engine.loggers.base import Logger, LoggerGroup
from engine.runtime import child_process, tensorflow_setup
from pipelines.sources.examples import read_bytes

WARM_UP = 16  # images sent before the measurement
SHUTDOWN_SECONDS = 60
MAX_SECONDS = 600.0  # for all images


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
class LoadTestRun:
    """The results of the sent images, in order.

    seconds: for all images.
    latencies: seconds of each image.
    predictions: label -> probability, of each image.
    """

    seconds: float
    latencies: tuple[float, ...]
    predictions: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Images/s."""
        return len(self.latencies) / self.seconds


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
            f"to {max_difference(self.sequential, self.concurrent):.1e}"
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
    images = _read_images(options, logger.note)
    with _service(options.service, logger, warn or logger.note) as address:
        asyncio.run(send_images(address, images[:WARM_UP], options.connections))
        sequential = asyncio.run(send_images(address, images, 1))
        concurrent = asyncio.run(send_images(address, images, options.connections))
    return LoadTestResult(sequential, concurrent, options.connections)


def _read_images(options: LoadTestOptions, log: Callable[[str], None]) -> list[tuple[str, bytes]]:
    """Reads the name and contents of an image for each request."""
    tensorflow_setup.start_tensorflow(options.service.threads)
    from pipelines.predict import list_inputs

    paths = itertools.islice(list_inputs.list_inputs(options.images, log), options.requests)
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


async def send_images(
    address: str, images: Sequence[tuple[str, bytes]], connections: int
) -> LoadTestRun:
    """Posts each image once, on several connections that each wait for the response.

    Args:
      images: name, for messages, and contents.

    Raises:
      UserError: a response is not 200, or all take longer than MAX_SECONDS.
    """
    indices = iter(range(len(images)))
    results: list[tuple[float, dict[str, float]]] = [(0.0, {})] * len(images)
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send_sequentially() -> None:
            for index in indices:
                results[index] = await _post(session, address, *images[index])

        started = time.perf_counter()
        try:
            clients = (send_sequentially() for _ in range(connections))
            await asyncio.wait_for(asyncio.gather(*clients), MAX_SECONDS)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise UserError(f"{address}: no response ({type(error).__name__})") from None
        seconds = time.perf_counter() - started
    latencies, predictions = zip(*results, strict=True)
    return LoadTestRun(seconds, latencies, predictions)


async def _post(
    session: aiohttp.ClientSession, address: str, name: str, contents: bytes
) -> tuple[float, dict[str, float]]:
    started = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream"}
    async with session.post(f"{address}predict", data=contents, headers=headers) as response:
        values = await response.json()
    latency = time.perf_counter() - started
    if response.status != 200:
        raise UserError(f"{name}: status {response.status}: {values['error']}")
    predictions = values["files"][0]["predictions"]
    return latency, {entry["label"]: entry["probability"] for entry in predictions}


def max_difference(one: LoadTestRun, other: LoadTestRun) -> float:
    """Returns the largest difference of a probability between two runs of the same images."""
    pairs = zip(one.predictions, other.predictions, strict=True)
    return max(
        abs(first.get(label, 0) - second.get(label, 0))
        for first, second in pairs
        for label in first | second
    )
