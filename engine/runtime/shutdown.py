"""Ends a run from outside: a first request saves and ends it, a second ends it at once."""

from __future__ import annotations

import atexit
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from typing import TypeVar

Item = TypeVar("Item")
# A signal sent to a process and then to its group is one request; so is a double Ctrl-C.
REPEAT_SECONDS = 1.0
WAKE_UP = signal.SIGURG  # wakes the main thread from another; ignored unless handled
SHOW_CURSOR = b"\x1b[?25h"  # a progress line hides it


class ShutdownRequested(BaseException):
    """The run was asked to end, and nothing of it is lost; the message says by what.

    Not an `Exception`, so that error handlers let it pass.
    """


class Shutdown:
    """A request to end the run, made by a signal or another thread.

    Within `deferred` a request waits until the run calls `check`, where it can save. Elsewhere
    there is nothing to save, and a signal raises ShutdownRequested where the program is. That
    happens once: while the program ends, further requests raise nothing.

    Attributes:
      reason: of the first request; None until there is one.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._requested = threading.Event()
        self._deferrals = 0
        self._ending = False
        self._raised = False

    def request(self, reason: str) -> None:
        """Asks the run to end at its next check; the first reason counts. From any thread."""
        self.reason = self.reason or reason
        self._requested.set()
        for callback in self._callbacks:
            callback()

    def on_request(self, callback: Callable[[], None]) -> None:
        """Calls back when the request is made, from whatever thread; now if it has been made."""
        self._callbacks.append(callback)
        if self.reason:
            callback()

    def interrupt(self, reason: str) -> None:
        """Requests as a signal does, which needs `install_handlers`. From any thread."""
        self.request(reason)
        os.kill(os.getpid(), WAKE_UP)

    def disarm(self) -> None:
        """Keeps later signals from raising anything: the work is done."""
        self._ending = True

    def wait(self, seconds: float) -> None:
        """Waits so long, or until there is a request."""
        self._requested.wait(seconds)

    def check(self) -> None:
        """Raises ShutdownRequested if there was a request."""
        if self.reason:
            self._ending = True
            raise ShutdownRequested(self.reason)

    def check_each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items, with a check before each."""
        for item in items:
            self.check()
            yield item

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block signals raise nothing; the next `check` does."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """Turns an error that a handler's ShutdownRequested was turned into back into it.

        Where a signal arrives while TensorFlow's C++ calls Python, for instance to build an error
        of its own, what the handler raises comes out as a RuntimeError.
        """
        try:
            yield
        except Exception as error:
            if self._raised:
                raise ShutdownRequested(self.reason) from error
            raise

    def install_handlers(
        self, signals: Iterable[signal.Signals], notices: Iterable[signal.Signals] = ()
    ) -> None:
        """Takes these signals as requests. To be called in the main thread.

        A second one of `signals`, later than REPEAT_SECONDS, ends the process at once; `notices` do
        not count for that, as a scheduler's notice is followed by SIGTERM.

        Python calls a handler when the main thread returns to it, which can take as long as a
        compilation. So a thread, which the system wakes, waits for the second signal.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        requests = frozenset(signals)
        handled = {*requests, *notices, WAKE_UP}
        for number in handled:
            signal.signal(number, self._raise)
            signal.siginterrupt(number, False)  # reads and writes are not cut short
        atexit.register(_ignore, handled)
        signal.set_wakeup_fd(writer)
        threading.Thread(
            target=self._listen, args=(reader, handled, requests), daemon=True, name="shutdown"
        ).start()

    def _raise(self, number: int, _: object) -> None:
        # The listener sets the event.
        self.reason = self.reason or signal.Signals(number).name
        if not self._deferrals and not self._ending:
            self._raised = True
            self.check()

    def _listen(self, pipe: int, handled: Set[int], requests: Set[int]) -> None:
        first = math.inf
        while True:
            number = os.read(pipe, 1)[0]
            if number not in handled:  # Python writes every signal with a handler to the pipe
                continue
            self.request(signal.Signals(number).name)
            now = time.monotonic()
            if number in requests and now - first > REPEAT_SECONDS:
                _exit(number)
            first = min(first, now) if number in requests else first


def _exit(number: int) -> None:
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    os._exit(128 + number)  # as a shell reports a process that a signal has ended


def _ignore(numbers: Iterable[int]) -> None:
    """Else Python would restore the default handlers a moment before the process has ended."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
