"""Computes items ahead of their use, on a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_END = object()


def prefetch(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yields the items in order; up to `depth` of them are computed before they are requested.

    An error while computing them is raised here. Closing the iterator ends the thread.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        ahead = deque(pool.submit(next, source, _END) for _ in range(depth + 1))
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
