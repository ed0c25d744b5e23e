"""A shutdown request ends a run at its next check, a second one at once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from engine.runtime.shutdown import Shutdown, ShutdownRequested

REPEAT_SECONDS = 0.3  # in the programs, less than by default

LATER = 1.5 * REPEAT_SECONDS
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes, out of reach
PROGRAM = """
import os, signal, sys, time
from engine.runtime import shutdown
from engine.runtime.shutdown import Shutdown, ShutdownRequested
shutdown.REPEAT_SECONDS = {repeat}
stop = Shutdown()
stop.install_handlers([signal.SIGTERM, signal.SIGINT], [signal.SIGUSR1])
try:
{body}
except ShutdownRequested as error:
    print("stopped by", error, flush=True)
    {then}
"""
IDLE = """
    print("ready", flush=True)
    time.sleep(600)
"""
DEFERRED = """
    with stop.deferred():
        print("ready", flush=True)
        while not stop.reason:
            time.sleep(0.01)
        print("noted", flush=True)
        {more}
        stop.check()
"""


def test_check_without_a_request_passes():
    stop = Shutdown()
    stop.check()
    assert list(stop.check_each(iter("abc"))) == ["a", "b", "c"]


def test_check_after_requests_raises_with_the_first_reason():
    """Past handlers of exceptions."""
    stop = Shutdown()
    for reason in ("the cloud", "a signal"):
        stop.request(reason)
    with pytest.raises(ShutdownRequested, match="the cloud"), suppress(Exception):
        stop.check()


def test_check_each_raises_between_items():
    stop = Shutdown()
    items = stop.check_each([1, 2, 3])
    assert [next(items), next(items)] == [1, 2]
    stop.request("enough")
    with pytest.raises(ShutdownRequested, match="enough"):
        next(items)


def started(body: str, then: str = "sys.exit(75)", more: str = "") -> subprocess.Popen:
    program = PROGRAM.format(body=body.format(more=more), then=then, repeat=REPEAT_SECONDS)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[str, int]:
    out, _ = process.communicate(timeout=60)
    return out, process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_raises_where_the_program_is(number):
    process = started(IDLE)
    process.send_signal(number)
    assert ended(process) == (f"stopped by {number.name}\n", 75)


def test_signal_while_deferred_waits_for_the_next_check():
    process = started(DEFERRED)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("noted\nstopped by SIGTERM\n", 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_process_inside_a_library(number):
    process = started(DEFERRED, more=BUSY)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    time.sleep(LATER)
    process.send_signal(number)
    assert ended(process) == ("", 128 + number)


def test_second_signal_while_ending_ends_the_process():
    process = started(IDLE, then=BUSY)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopped by SIGINT\n"
    time.sleep(LATER)
    process.send_signal(signal.SIGINT)
    assert ended(process) == ("", 130)


@pytest.mark.parametrize(
    ("first", "pause"),
    [(signal.SIGTERM, 0.0), (signal.SIGINT, 0.1), (signal.SIGUSR1, LATER)],
)
def test_repeated_signal_or_one_after_a_notice_changes_nothing(first, pause):
    process = started(DEFERRED, more=f"time.sleep({2 * LATER})")
    process.send_signal(first)
    assert process.stdout.readline() == "noted\n"
    time.sleep(pause)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (f"stopped by {first.name}\n", 75)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_while_ending_raises_nothing(second):
    process = started(IDLE, then='time.sleep(0.2); print("clean", flush=True); sys.exit(75)')
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopped by SIGTERM\n"
    process.send_signal(second)
    assert ended(process) == ("clean\n", 75)


def test_signal_after_disarm_raises_nothing():
    process = started(DEFERRED.replace("stop.check()", "stop.disarm()") + "    time.sleep(0.5)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("", 0)


MASKED = """
    with stop.unmasked():
        print("ready", flush=True)
        try:
            time.sleep(600)
        except BaseException:
            raise RuntimeError("as C++ has it") from None
"""


def test_unmasked_restores_the_request_from_another_error():
    process = started(MASKED)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("stopped by SIGTERM\n", 75)


@pytest.mark.parametrize("requested", [False, True])
def test_unmasked_keeps_unrelated_errors(requested):
    stop = Shutdown()
    if requested:
        stop.request("the cloud")
    with pytest.raises(RuntimeError, match="of its own"), stop.unmasked():
        raise RuntimeError("of its own")


ELSEWHERE = """
    import threading
    threading.Timer(0.1, stop.interrupt, ["the cloud"]).start()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_interrupt_from_another_thread_raises_at_once():
    assert ended(started(ELSEWHERE)) == ("stopped by the cloud\n", 75)


OTHERS = """
    signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b"heard\\n"))
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        stop.check()
"""


def test_signal_with_another_handler_is_no_request():
    process = started(OTHERS)
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "heard\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("stopped by SIGTERM\n", 75)


def test_callbacks_are_called_on_request_or_at_once_after_it():
    stop, before, after = Shutdown(), threading.Event(), threading.Event()
    stop.on_request(before.set)
    assert not before.is_set()
    stop.request("the test")
    stop.on_request(after.set)
    assert before.is_set()
    assert after.is_set()


def test_process_ended_at_once_restores_the_cursor():
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM.format(body=IDLE, then=BUSY, repeat=REPEAT_SECONDS)]
    with subprocess.Popen(command, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        for word in (b"ready", b"stopped by SIGTERM"):
            while word not in shown:
                shown += os.read(ours, 1000)
            time.sleep(LATER)
            process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert os.read(ours, 1000).endswith(b"\x1b[?25h")
    os.close(ours)
