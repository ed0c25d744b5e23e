"""A wish to end: noted, found where a run looks, and obeyed at once when it comes again."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from engine.runtime.shutdown import REPEAT_SECONDS, Shutdown, ShutdownRequested

LATER = 1.2 * REPEAT_SECONDS
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # minutes, out of reach
PROGRAM = """
import os, signal, sys, time
from engine.runtime.shutdown import Stop, Stopped
stop = Stop()
stop.on([signal.SIGTERM, signal.SIGINT], [signal.SIGUSR1])
try:
{body}
except Stopped as error:
    print("stopped by", error, flush=True)
    {then}
"""
IDLE = """
    print("ready", flush=True)
    time.sleep(600)
"""
PATIENT = """
    with stop.patient():
        print("ready", flush=True)
        while not stop.reason:
            time.sleep(0.01)
        print("noted", flush=True)
        {more}
        stop.check()
"""


def test_nobody_asked():
    stop = Shutdown()
    stop.check()
    assert list(stop.checked(iter("abc"))) == ["a", "b", "c"]


def test_asked_for_the_next_look_ends_it_and_the_first_reason_counts():
    stop = Shutdown()
    for reason in ("the cloud", "a signal"):
        stop.ask(reason)
    with pytest.raises(ShutdownRequested, match="the cloud"):
        stop.check()


def test_between_items():
    stop = Shutdown()
    items = stop.checked([1, 2, 3])
    assert [next(items), next(items)] == [1, 2]
    stop.ask("enough")
    with pytest.raises(ShutdownRequested, match="enough"):
        next(items)


def test_from_another_thread():
    stop = Shutdown()
    thread = threading.Thread(target=stop.ask, args=("elsewhere",))
    thread.start()
    thread.join()
    with pytest.raises(ShutdownRequested, match="elsewhere"):
        stop.check()


def started(body: str, then: str = "sys.exit(75)", more: str = "") -> subprocess.Popen:
    program = PROGRAM.format(body=body.format(more=more), then=then)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[str, int]:
    out, _ = process.communicate(timeout=60)
    return out, process.returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_program_where_there_is_nothing_to_save(number):
    process = started(IDLE)
    process.send_signal(number)
    assert ended(process) == (f"stopped by {number.name}\n", 75)


def test_where_there_is_it_waits_for_the_next_look():
    process = started(PATIENT)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("noted\nstopped by SIGTERM\n", 75)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_one_ends_it_at_once_even_deep_in_a_library(number):
    process = started(PATIENT, more=BUSY)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    time.sleep(LATER)
    process.send_signal(number)
    assert ended(process) == ("", 128 + number)


def test_so_does_one_while_the_first_is_obeyed():
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
def test_one_that_belongs_to_the_first_or_follows_a_notice_changes_nothing(first, pause):
    process = started(PATIENT, more=f"time.sleep({2 * LATER})")
    process.send_signal(first)
    assert process.stdout.readline() == "noted\n"
    time.sleep(pause)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (f"stopped by {first.name}\n", 75)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_while_it_ends_no_second_one_is_raised(second):
    process = started(IDLE, then='time.sleep(0.2); print("clean", flush=True); sys.exit(75)')
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopped by SIGTERM\n"
    process.send_signal(second)
    assert ended(process) == ("clean\n", 75)


def test_once_all_is_done_none_is_raised():
    process = started(PATIENT.replace("stop.check()", "stop.done()") + "    time.sleep(0.5)")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("", 0)


DISGUISED = """
    with stop.undisguised():
        print("ready", flush=True)
        try:
            time.sleep(600)
        except BaseException:
            raise RuntimeError("as C++ has it") from None
"""


def test_what_foreign_code_makes_of_it_is_still_the_wish():
    process = started(DISGUISED)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("stopped by SIGTERM\n", 75)


@pytest.mark.parametrize("asked", [False, True])
def test_an_error_that_did_not_come_of_it_stays(asked):
    stop = Shutdown()
    if asked:
        stop.ask("the cloud")
    with pytest.raises(RuntimeError, match="of its own"), stop.undisguised():
        raise RuntimeError("of its own")


ELSEWHERE = """
    import threading
    threading.Timer(0.1, stop.interrupt, ["the cloud"]).start()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_another_thread_ends_it_too_and_not_only_where_it_looks():
    assert ended(started(ELSEWHERE)) == ("stopped by the cloud\n", 75)


OTHERS = """
    signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b"heard\\n"))
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        stop.check()
"""


def test_a_signal_that_is_somebody_elses_is_no_wish():
    process = started(OTHERS)
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "heard\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == ("stopped by SIGTERM\n", 75)


def test_what_is_to_be_done_at_once_is():
    done = threading.Event()
    Shutdown(done.set).ask("the test")
    assert done.is_set()


def test_ended_at_once_it_gives_the_terminal_its_cursor_back():
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM.format(body=IDLE, then=BUSY)]
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


def test_it_is_not_taken_for_an_error():
    stop = Shutdown()
    stop.ask("the test")
    with pytest.raises(ShutdownRequested):  # noqa: PT012
        try:
            stop.check()
        except Exception as error:
            raise AssertionError from error
