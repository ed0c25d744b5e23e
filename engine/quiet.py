"""Work that can wait, and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_quiet = threading.RLock()


@contextmanager
def kept() -> Iterator[None]:
    """Within the block nothing goes on that gives way: something is measured, or waited for."""
    with _quiet:
        yield


def give_way() -> None:
    """To be called often by a thread whose work can wait."""
    with _quiet:
        pass
