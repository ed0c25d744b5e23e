"""Ending a run from outside: asked once it saves and ends, asked again it ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The run was asked to end, and nothing of it is lost; the message says by what."""


class Stop:
    """A wish to end, from a signal or another thread, and who looks whether there is one.

    Within `patient` a wish waits until the run looks, at a place where it can save; elsewhere there
    is nothing to save, and a signal raises Stopped where the program stands.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._asked = threading.Event()
        self._patience = 0

    def ask(self, reason: str) -> None:
        """The run is to end soon; the first reason counts. From any thread."""
        self.reason = self.reason or reason
        self._asked.set()

    def wait(self, seconds: float) -> None:
        """So long, or until it is asked for."""
        self._asked.wait(seconds)

    def check(self) -> None:
        """Looks.

        Raises:
          Stopped: it was asked for.
        """
        if self.reason:
            raise Stopped(self.reason)

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

    def on(self, signals: Iterable[signal.Signals]) -> None:
        """Takes these signals as the wish; a second one ends the process at once. Main thread only.

        Python calls a handler when the main thread comes back to it, which can take as long as a
        compilation. So the second is waited for on a thread, which the system wakes.
        """
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(ours, True)
        for number in signals:
            signal.signal(number, self._raise)
            signal.siginterrupt(number, False)  # what is being read or written is not cut short
        signal.set_wakeup_fd(theirs)
        wanted = frozenset(signals)
        threading.Thread(target=self._listen, args=(ours, wanted), daemon=True, name="stop").start()

    def _raise(self, number: int, _: object) -> None:
        self.ask(signal.Signals(number).name)
        if not self._patience:
            self.check()

    def _listen(self, pipe: int, wanted: frozenset[int]) -> None:
        seen = 0
        while True:
            number = os.read(pipe, 1)[0]
            seen += number in wanted
            if seen == 1:
                self.ask(signal.Signals(number).name)
            elif seen > 1:
                os._exit(128 + number)  # as a shell counts a process that a signal has ended
