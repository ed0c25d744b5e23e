"""Prefetching: in order, no further ahead than requested, errors raised here, no thread left."""

import threading
import time

import pytest

from pipelines.loading.prefetch import prefetch

PATIENCE = 10.0  # seconds until a test gives up on a thread


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def until(condition) -> bool:
    """Waits until it is true, if it becomes so."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize("items", [[*range(50), None, (), Exception], []])
def test_items_come_in_order(depth, items):
    assert list(prefetch(iter(items), depth)) == items
    assert threads() == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_as_many_items_as_allowed_are_computed_ahead(depth):
    computed = []
    read = prefetch((computed.append(n) or n for n in range(100)), depth)
    assert next(read) == 0
    # `depth` wait in the queue, and one more is computed and finds no room.
    assert until(lambda: len(computed) == 1 + depth + 1)
    assert not until_more(computed, 1 + depth + 1)
    read.close()


def until_more(computed: list, count: int) -> bool:
    """Whether the thread, given the chance, goes further."""
    for _ in range(100):
        time.sleep(0)
        if len(computed) > count:
            return True
    return False


def test_items_are_computed_on_another_thread():
    (thread,) = set(prefetch((threading.get_ident() for _ in range(3)), 2))
    assert thread != threading.get_ident()


class PaperError(Exception):
    pass


def failing(error):
    yield from "ab"
    raise error("no more")


@pytest.mark.parametrize("error", [PaperError, KeyboardInterrupt])
def test_error_is_raised_after_the_items_before_it(error):
    read = prefetch(failing(error), 4)
    assert [next(read), next(read)] == ["a", "b"]
    with pytest.raises(error):
        next(read)
    assert threads() == 0


def endless():
    return prefetch(iter(int, 1), 2)


def close(read):
    next(read)
    assert threads() == 1
    read.close()


def drop(read):
    next(read)
    del read


def fail(read):
    def consume(items):
        for _ in items:
            raise PaperError

    with pytest.raises(PaperError):
        consume(read)
    del read


@pytest.mark.parametrize("end", [close, drop, fail, lambda read: read.close()])
def test_consumer_that_stops_ends_the_thread(end):
    end(endless())
    assert threads() == 0
