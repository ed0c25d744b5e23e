"""Captured streams: shown after a failure, and after nothing else."""

from __future__ import annotations

import os
import sys

import pytest

from engine.runtime.captured_output import capture_native_stderr, capture_output
from engine.runtime.shutdown import ShutdownRequested


def write_and_raise(text: str, error: BaseException) -> None:
    os.write(2, text.encode())
    raise error


def test_native_stderr_is_shown_only_after_a_failure(capfd):
    with pytest.raises(OSError, match="no device"), capture_native_stderr():
        write_and_raise("the reason\n", OSError("no device"))
    assert capfd.readouterr().err == "the reason\n"
    with capture_native_stderr():
        os.write(2, b"chatter\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


@pytest.mark.parametrize("request_", [ShutdownRequested("SIGTERM"), KeyboardInterrupt()])
def test_interrupted_block_shows_nothing(capfd, request_):
    with pytest.raises(type(request_)), capture_native_stderr():
        write_and_raise("noise\n", request_)
    assert capfd.readouterr().err == ""


def test_both_streams_are_captured_also_where_stderr_has_no_descriptor(capfd, monkeypatch):
    """As in a notebook."""
    for stderr in (sys.stderr, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        with capture_output():
            os.write(1, b"converting\n")
            os.write(2, b"chatter\n")
        assert capfd.readouterr() == ("", "")
