"""Prefetching: in order, no further ahead than requested, errors raised here, no thread left."""

import threading
import time

import pytest

from pipelines.loading.prefetch import prefetch

PATIENCE = 10.0  # seconds until a test gives up on a thread


@pytest.fixture
def threads():
    """Counts the prefetching threads of this test, not those of iterators that others left open."""
    earlier = set(threading.enumerate())

    def count() -> int:
        started = set(threading.enumerate()) - earlier
        return sum(thread.name.startswith("prefetch") for thread in started)

    return count


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize("items", [[*range(50), None, (), Exception], []])
def test_items_come_in_order(threads, depth, items):
    assert list(prefetch(iter(items), depth)) == items
    assert threads() == 0


@pytest.mark.parametrize("depth", [1, 3])
def test_as_many_items_as_allowed_are_computed_ahead(depth):
    computed = []
    read = prefetch((computed.append(n) or n for n in range(100)), depth)
    assert next(read) == 0
    end = time.monotonic() + PATIENCE
    while len(computed) < 1 + depth + 1 and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(0.01)  # the thread has the chance to go further
    # `depth` wait, and one more takes the place of the one that was yielded.
    assert len(computed) == 1 + depth + 1
    read.close()


def test_items_are_computed_on_another_thread():
    (thread,) = set(prefetch((threading.get_ident() for _ in range(3)), 2))
    assert thread != threading.get_ident()


def failing(error):
    yield from "ab"
    raise error("no more")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_is_raised_after_the_items_before_it(threads, error):
    read = prefetch(failing(error), 4)
    assert [next(read), next(read)] == ["a", "b"]
    with pytest.raises(error):
        next(read)
    assert threads() == 0


def drop(read):
    next(read)
    del read


def fail(read):
    def consume(items):
        for _ in items:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        consume(read)
    del read


@pytest.mark.parametrize("end", [drop, fail, lambda read: read.close()])
def test_consumer_that_stops_ends_the_thread(threads, end):
    read = prefetch(iter(int, 1), 2)
    next(read)
    assert threads() == 1
    end(read)
    del read
    assert threads() == 0
