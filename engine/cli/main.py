"""What a program does around its work: errors as one line, TensorFlow without noise, threads."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from engine.cli import flags
from engine.core.errors import UserError
from engine.runtime import background, native_stderr, preemption
from engine.runtime.shutdown import Shutdown, ShutdownRequested

INTERRUPTED = 130  # what shells give for SIGINT
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: no failure, to be started again


def main(work: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake is one line on the error stream and no traceback."""
    program = _name()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    native_stderr.hush()
    try:
        work(sys.argv)
        _flush()  # here, where a reader that has gone away is no surprise
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, flags.FlagError) else 1) from None
    except ShutdownRequested as error:
        print(
            f"{program}: stopped by {error}; started again without --overwrite it goes on",
            file=sys.stderr,
        )
        raise SystemExit(STOPPED) from None
    except KeyboardInterrupt:
        background.cancel()
        print(f"{program}: interrupted; the same command starts it again", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _to_nobody()
        raise SystemExit(1) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _to_nobody()
        raise UserError(
            f"its last words can't be written ({error.strerror}); make room where they go"
        ) from None


def _to_nobody() -> None:
    """Else Python would try once more to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _name() -> str:
    """Of the program."""
    return Path(sys.argv[0]).name


def log(line: str) -> None:
    """Prints a line for the user on the error stream, apart from what a program is called for."""
    print(line, file=sys.stderr, flush=True)


def command_line(argv: list[str]) -> str:
    """The command as a user types it, for reports."""
    return shlex.join([f"bin/{Path(argv[0]).name}", *argv[1:]])


def stop(preemption_signal: str | None, watch_preemption: bool) -> Shutdown:
    """What ends a run: Ctrl-C, the system, a scheduler by a signal of its own, the cloud."""
    asked = Shutdown(background.cancel)
    own = [signal.Signals[preemption_signal]] if preemption_signal else []
    asked.install_handlers([signal.SIGINT, signal.SIGTERM], own)
    if watch_preemption and not preemption.watch(asked.interrupt):
        print(
            f"{_name()}: --watch_preemption: neither AWS nor Google answers here; asked again "
            f"every {preemption.POLL_SECONDS:g} s",
            file=sys.stderr,
        )
    return asked
