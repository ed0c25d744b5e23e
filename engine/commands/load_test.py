"""`bin/serve --measure`: a service in a process of its own, and images sent to it from here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator

from engine.cli import flags
from engine.core.errors import UserError
from engine.core.text import printable
from engine.runtime import tensorflow_setup
from engine.serving import load_test
from engine.serving.load_test import Sent
from pipelines.sources.examples import read_bytes

WARM_UP = 16  # images sent before the clock starts
END_SECONDS = 60


def measure(command: list[str], parsed: flags.Parsed) -> None:
    """Prints how many images a second the service answers, one at a time and many at a time.

    command: starts the service.
    """
    images = _images(parsed)
    with _started(command) as address:
        asyncio.run(load_test.send(address, images[:WARM_UP], parsed.connections))
        alone = asyncio.run(load_test.send(address, images, 1))
        together = asyncio.run(load_test.send(address, images, parsed.connections))
    for line in _lines(alone, together, parsed.connections):
        print(line)


def _images(parsed: flags.Parsed) -> list[tuple[str, bytes]]:
    """As many as requests are to be sent; those that there are come again where there are fewer."""
    if not parsed.words:
        raise flags.FlagError("--measure: no image is named; give files or folders")
    tensorflow_setup.start_tensorflow(parsed.threads)
    from pipelines.predict import find_images

    places = itertools.islice(find_images.find(parsed.words), parsed.requests)
    files = [(printable(place), _contents(place)) for place in places]
    return [files[number % len(files)] for number in range(parsed.requests)]


def _contents(place: str) -> bytes:
    try:
        return read_bytes(place)
    except OSError as error:
        raise UserError(
            f"{printable(place)} can't be read: {error.strerror or error}; "
            "--measure takes files and folders"
        ) from None


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[str]:
    """The address of the service, which ends with the block."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        address = ""
        for line in process.stdout:
            address = address or line.split()[0]
            if line.startswith("ready"):
                print(line, end="", flush=True)
                break
        else:
            raise UserError("the service did not start; what it said stands above")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        process.kill()
        process.wait()
        process.stdout.close()
    if process.returncode:
        print(f"the service ended with {process.returncode}", file=sys.stderr)


def _lines(alone: Sent, together: Sent, connections: int) -> Iterator[str]:
    for what, sent in (("one at a time", alone), (f"on {connections} connections", together)):
        median, late = (1000 * load_test.quantile(sent.latencies, share) for share in (0.5, 0.99))
        yield (
            f"{what:20} {sent.rate:8.1f} images/s  latency: median {median:.1f} ms, "
            f"99 % within {late:.1f} ms"
        )
    yield (
        f"ratio {together.rate / alone.rate:.2f}; answers up to "
        f"{load_test.apart(alone, together):.1e} apart"
    )
