"""What a program does around its work: errors as one line, signals, an exit status."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from engine.cli.command_line import FlagError
from engine.core.errors import UserError
from engine.core.text import command_line
from engine.runtime import background, cloud_metadata, native_stderr
from engine.runtime.shutdown import Shutdown, ShutdownRequested

INTERRUPTED = 130  # what shells return for SIGINT
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: no failure, start it again


def main(work: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake is one line on the error stream and no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    native_stderr.drop_decoder_noise()
    try:
        work(sys.argv)
        _flush()  # here, where a reader that has gone away is no surprise
    except UserError as error:
        raise _exit(error, 2 if isinstance(error, FlagError) else 1) from None
    except ShutdownRequested as error:
        reason = f"stopped by {error}; started again without --overwrite, it resumes"
        raise _exit(reason, STOPPED) from None
    except KeyboardInterrupt:
        background.cancel()
        reason = "interrupted; the same command starts it again"
        raise _exit(reason, INTERRUPTED) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _discard_output()
        raise SystemExit(1) from None


def _exit(reason: object, status: int) -> SystemExit:
    log(f"{_program()}: {reason}")
    return SystemExit(status)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise UserError(
            f"the end of the output can't be written ({error.strerror}); make room where it goes"
        ) from None


def _discard_output() -> None:
    """Else Python would try once more to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _program() -> str:
    return Path(sys.argv[0]).name


def log(line: str) -> None:
    """Prints a line for the user on the error stream, apart from what a program is called for."""
    print(line, file=sys.stderr, flush=True)


def command_text(argv: list[str]) -> str:
    """The command as a user types it, for reports."""
    return command_line(Path(argv[0]).name, *argv[1:])


def listen_for_shutdown(preemption_signal: str | None, watch_preemption: bool) -> Shutdown:
    """What ends a run: Ctrl-C, the system, a scheduler by a signal of its own, the cloud."""
    shutdown = Shutdown()
    shutdown.on_request(background.cancel)
    notices = [signal.Signals[preemption_signal]] if preemption_signal else []
    shutdown.install_handlers([signal.SIGINT, signal.SIGTERM], notices)
    if watch_preemption and not cloud_metadata.watch_preemption(shutdown.interrupt):
        log(
            f"{_program()}: --watch_preemption: neither AWS nor Google answers here; tried again "
            f"every {cloud_metadata.POLL_SECONDS:g} s"
        )
    return shutdown
