"""Background work, such as writing the pixel cache, and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_foreground = threading.RLock()
_cancelled = threading.Event()


@contextmanager
def paused() -> Iterator[None]:
    """Within the block background work stands still: something is measured, or waited for."""
    with _foreground:
        yield


def yield_to_foreground() -> None:
    """Waits while background work is paused; to be called often by a thread that does such work.

    Raises:
      InterruptedError: the program ends; the work is to be left undone.
    """
    with _foreground:
        if _cancelled.is_set():
            raise InterruptedError("the program ends")


def cancel() -> None:
    """Ends background work at its next `yield_to_foreground`: the program ends."""
    _cancelled.set()
