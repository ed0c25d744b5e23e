"""What can wait waits while quiet is kept, and only then."""

from __future__ import annotations

import threading

import pytest

from engine.runtime import background


def work(begun: threading.Event, passed: threading.Event) -> None:
    begun.set()
    background.yield_to_foreground()
    passed.set()


def waits() -> bool:
    """Whether another thread that gives way comes no further."""
    begun, passed = threading.Event(), threading.Event()
    threading.Thread(target=work, args=(begun, passed), daemon=True).start()
    begun.wait()
    return not passed.wait(0.2)


def passes() -> bool:
    """Whether it comes through; that can take a while on a machine that has much to do."""
    begun, passed = threading.Event(), threading.Event()
    threading.Thread(target=work, args=(begun, passed), daemon=True).start()
    return passed.wait(60)


def test_a_thread_waits_while_another_keeps_quiet():
    assert passes()
    with background.paused():
        assert waits()
        with background.paused():
            assert waits()
        assert waits()
    assert passes()


def test_who_keeps_quiet_does_not_wait_for_itself():
    with background.paused():
        background.yield_to_foreground()
        assert waits(), "others do"


def test_an_error_ends_it():
    try:
        with background.paused():
            raise ValueError
    except ValueError:
        assert passes()


def test_when_the_program_ends_what_can_wait_is_left_undone(monkeypatch):
    monkeypatch.setattr(background, "_over", threading.Event())
    background.yield_to_foreground()
    background.cancel()
    with pytest.raises(InterruptedError):
        background.yield_to_foreground()
