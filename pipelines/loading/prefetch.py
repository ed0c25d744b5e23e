"""Computes items ahead of their use, on a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

_END = object()


def prefetch(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yields the items in order; up to `depth` of them are computed before they are requested.

    An error while computing them is raised here. Closing the iterator ends the thread.
    """
    ready: queue.Queue = queue.Queue(depth)
    closed = threading.Event()

    def put(item: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        with contextlib.suppress(queue.Empty):
            while True:  # makes room for the item that the thread is waiting to put
                ready.get_nowait()
        thread.join()
