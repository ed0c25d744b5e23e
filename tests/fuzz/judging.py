"""Reads cases one after the other, and says which had neither a result nor the error that is meant.

A case may take neither long nor much memory, and nothing that it holds is executed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 20.0  # a guard against hanging: the slowest case takes a fraction of one
MEMORY = 500 * 10**6  # bytes that the process may grow by: cases need little or far more
LONGEST = 5000  # letters of a message

# What Python reports to whoever watches, when something is about to be executed.
EXECUTING = {
    *("pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn"),
    "subprocess.Popen",
}
EXECUTED: list[str] = []  # since the last case began


class HungError(BaseException):
    """No Exception, since some readers rightly take all of those for a broken file."""


def _note(event: str, _: tuple) -> None:
    if event in EXECUTING:
        EXECUTED.append(event)


sys.addaudithook(_note)  # there is no way to take one away


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise HungError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _in_memory() -> Iterator[None]:
    """Fails where the most memory that was used within the block is far above that before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    before = _most_memory()
    yield
    grown = _most_memory() - before
    assert grown < MEMORY, f"took {grown:,} bytes more than before"


def _most_memory() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024


class Judge:
    """Passes cases to readers, and counts those that were answered."""

    def __init__(self, folder: Path, times: int) -> None:
        """times: how many times the default number of cases to try."""
        self.counts: dict[str, int] = {}
        self.folder, self.times = folder, times

    def __call__(
        self,
        name: str,
        read: Callable[[bytes], Any],
        inputs: Iterable[bytes],
        error: type[Exception] | tuple[()] = (),
    ) -> tuple[int, int]:
        """Every input is answered by a result, or by a line of the error that is meant.

        Returns:
          How many had a result, and how many an error.
        """
        results = errors = 0
        with _in_memory():
            for data in inputs:
                EXECUTED.clear()
                try:
                    with _in_time():
                        read(data)
                    results += 1
                except error as message:
                    self._check(name, data, str(message))
                    errors += 1
                except (Exception, HungError) as fault:
                    pytest.fail(f"{name}: {fault!r} for {self._kept(data)}")
                if EXECUTED:
                    pytest.fail(f"{name}: executes {EXECUTED} for {self._kept(data)}")
        self.counts[name] = self.counts.get(name, 0) + results + errors
        return results, errors

    def _check(self, name: str, data: bytes, message: str) -> None:
        good = message.isprintable() and 0 < len(message) <= LONGEST
        assert good, f"{name}: says {message[:300]!r} for {self._kept(data)}"

    def _kept(self, data: bytes) -> str:
        (self.folder / "case").write_bytes(data)
        return f"the bytes in {self.folder / 'case'}, {data[:200]!r}"
