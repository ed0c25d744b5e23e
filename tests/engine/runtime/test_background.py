"""Background work stands still while it is paused, and only then."""

from __future__ import annotations

import threading

import pytest

from engine.runtime import background


def work(begun: threading.Event, passed: threading.Event) -> None:
    begun.set()
    background.yield_to_foreground()
    passed.set()


def waits() -> bool:
    """Whether another thread stands still."""
    begun, passed = threading.Event(), threading.Event()
    threading.Thread(target=work, args=(begun, passed), daemon=True).start()
    begun.wait()
    return not passed.wait(0.2)


def passes() -> bool:
    """Whether another thread goes on; that can take a while on a busy machine."""
    begun, passed = threading.Event(), threading.Event()
    threading.Thread(target=work, args=(begun, passed), daemon=True).start()
    return passed.wait(60)


def test_other_thread_waits_while_paused():
    assert passes()
    with background.paused():
        assert waits()
        with background.paused():
            assert waits()
        assert waits()
    assert passes()


def test_pausing_thread_does_not_wait_for_itself():
    with background.paused():
        background.yield_to_foreground()
        assert waits(), "others do"


def test_pause_ends_with_an_error():
    try:
        with background.paused():
            raise ValueError
    except ValueError:
        assert passes()


def test_cancel_interrupts_background_work(monkeypatch):
    monkeypatch.setattr(background, "_cancelled", threading.Event())
    background.yield_to_foreground()
    background.cancel()
    with pytest.raises(InterruptedError):
        background.yield_to_foreground()
