"""Work that can wait, and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_quiet = threading.RLock()
_over = threading.Event()


@contextmanager
def paused() -> Iterator[None]:
    """Within the block nothing goes on that gives way: something is measured, or waited for."""
    with _quiet:
        yield


def yield_to_foreground() -> None:
    """To be called often by a thread whose work can wait.

    Raises:
      InterruptedError: it is to be left undone, since the program ends.
    """
    with _quiet:
        if _over.is_set():
            raise InterruptedError("the program ends")


def cancel() -> None:
    """The program is asked to end: nobody is to wait for work that can wait."""
    _over.set()
