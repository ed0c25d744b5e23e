"""Work done ahead of who needs it, on a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

_END = object()


def ahead(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """The items in their order, up to `depth` of them made before they are asked for.

    What making them raises is raised here. Who stops asking stops the thread.
    """
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
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
        stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:  # room for what the thread waits to put down
                ready.get_nowait()
        thread.join()
