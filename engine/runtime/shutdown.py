"""Ending a run from outside: asked once it saves and ends, asked again it ends at once."""

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
# What sends a signal to a process and then to its group means one wish; so does a double Ctrl-C.
REPEAT_SECONDS = 1.0
NOTICE = signal.SIGURG  # by which another thread wakes the main one; ignored where nobody takes it
SHOW_CURSOR = b"\x1b[?25h"  # a live line hides it


class ShutdownRequested(BaseException):
    """The run was asked to end, and nothing of it is lost; the message says by what.

    No error, and not for those who handle errors.
    """


class Shutdown:
    """A wish to end, from a signal or another thread, and who looks whether there is one.

    Within `patient` a wish waits until the run looks, at a place where it can save; elsewhere there
    is nothing to save, and a signal raises Stopped where the program stands. Once: what comes while
    the program ends is no new wish.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        """at_once: called when the wish is made, from whatever thread."""
        self.reason: str | None = None
        self._callbacks = [at_once]
        self._asked = threading.Event()
        self._patience = 0
        self._ending = False
        self._raised = False

    def ask(self, reason: str) -> None:
        """The run is to end soon; the first reason counts. From any thread."""
        self.reason = self.reason or reason
        self._asked.set()
        for callback in self._callbacks:
            callback()

    def on_request(self, callback: Callable[[], None]) -> None:
        """Calls back when the request is made, from whatever thread; now if it has been made."""
        self._callbacks.append(callback)
        if self.reason:
            callback()

    def interrupt(self, reason: str) -> None:
        """As `ask`, and raises Stopped as a signal does, which needs `on`. From any thread."""
        self.ask(reason)
        os.kill(os.getpid(), NOTICE)

    def done(self) -> None:
        """Nothing is left to be stopped: no signal raises anything any more."""
        self._ending = True

    def wait(self, seconds: float) -> None:
        """So long, or until it is asked for."""
        self._asked.wait(seconds)

    def check(self) -> None:
        """Looks.

        Raises:
          Stopped: it was asked for.
        """
        if self.reason:
            self._ending = True
            raise ShutdownRequested(self.reason)

    def checked(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a look before each."""
        for item in items:
            self.check()
            yield item

    @contextmanager
    def patient(self) -> Iterator[None]:
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1

    @contextmanager
    def undisguised(self) -> Iterator[None]:
        """An error that came of Stopped is that again.

        Where a signal comes while TensorFlow's C++ calls Python, to build an error of its own for
        instance, what the handler raises comes out as a RuntimeError.
        """
        try:
            yield
        except Exception as error:
            if self._raised:
                raise ShutdownRequested(self.reason) from error
            raise

    def on(self, hurry: Iterable[signal.Signals], notices: Iterable[signal.Signals] = ()) -> None:
        """Takes these signals as the wish; a second one later than REPEAT_SECONDS ends the process.

        Of those that `hurry`, that is: a notice that is followed by SIGTERM is no second wish. To
        be called in the main thread.

        Python calls a handler when the main thread comes back to it, which can take as long as a
        compilation. So the second is waited for on a thread, which the system wakes.
        """
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(ours, True)
        known = {*hurry, *notices, NOTICE}
        for number in known:
            signal.signal(number, self._raise)
            signal.siginterrupt(number, False)  # what is being read or written is not cut short
        atexit.register(_ignore, known)
        signal.set_wakeup_fd(theirs)
        threading.Thread(
            target=self._listen, args=(ours, known, frozenset(hurry)), daemon=True, name="stop"
        ).start()

    def _raise(self, number: int, _: object) -> None:
        self.reason = self.reason or signal.Signals(number).name  # the event is the thread's to set
        if not self._patience and not self._ending:
            self._raised = True
            self.check()

    def _listen(self, pipe: int, known: Set[int], hurry: Set[int]) -> None:
        first = math.inf
        while True:
            number = os.read(pipe, 1)[0]
            if number not in known:  # Python writes all there that it has a handler for
                continue
            self.ask(signal.Signals(number).name)
            now = time.monotonic()
            if number in hurry and now - first > REPEAT_SECONDS:
                _end(number)
            first = min(first, now) if number in hurry else first


def _end(number: int) -> None:
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    os._exit(128 + number)  # as a shell counts a process that a signal has ended


def _ignore(numbers: Iterable[int]) -> None:
    """Else Python would give them back to the system a moment before it has ended."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
