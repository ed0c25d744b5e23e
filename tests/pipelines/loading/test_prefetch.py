"""Work ahead: in order, no further than asked for, its errors raised here, no thread left over."""

import threading
import time

import pytest

from pipelines.loading.prefetch import prefetch

PATIENCE = 10.0  # seconds until a test gives up on a thread that does not come


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def until(condition) -> bool:
    """Whether it comes true soon."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_items_come_in_their_order_whatever_they_are(depth):
    items = [*range(50), None, (), Exception]
    assert list(prefetch(iter(items), depth)) == items
    assert threads() == 0


def test_nothing_comes_from_nothing():
    assert list(prefetch([], 2)) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_it_makes_as_many_as_it_may_before_they_are_asked_for(depth):
    made = []
    read = prefetch((made.append(n) or n for n in range(100)), depth)
    assert next(read) == 0
    # `depth` wait, and one more is made and finds no room.
    assert until(lambda: len(made) == 1 + depth + 1)
    time.sleep(0.05)
    assert made == list(range(1 + depth + 1))
    read.close()


def test_they_are_made_on_another_thread():
    makers = set(prefetch((threading.get_ident() for _ in range(3)), 2))
    assert len(makers) == 1
    assert threading.get_ident() not in makers


class PaperError(Exception):
    pass


@pytest.mark.parametrize("error", [PaperError, KeyboardInterrupt])
def test_an_error_is_raised_behind_the_items_before_it(error):
    class Items:
        def __init__(self):
            self.left = iter("ab")

        def __iter__(self):
            return self

        def __next__(self):
            try:
                return next(self.left)
            except StopIteration:
                raise error("no more") from None

    read = prefetch(Items(), 4)
    assert [next(read), next(read)] == ["a", "b"]
    with pytest.raises(error):
        next(read)
    assert threads() == 0


def test_who_stops_asking_stops_the_thread():
    read = prefetch(iter(int, 1), 2)  # zeros without end
    next(read)
    assert threads() == 1
    read.close()
    assert threads() == 0


def test_so_does_who_forgets_it_or_fails():
    read = prefetch(iter(int, 1), 2)
    next(read)
    del read
    assert threads() == 0

    def failing():
        for _ in prefetch(iter(int, 1), 2):
            raise PaperError

    with pytest.raises(PaperError):
        failing()
    assert threads() == 0


def test_who_never_asks_starts_none():
    prefetch(iter(int, 1), 2).close()
    assert threads() == 0
