"""What a program does around its work: errors as one line, signals, an exit status."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from engine.cli.parsed_flags import FlagError
from engine.core.errors import UserError
from engine.core.streams import lost_output
from engine.core.text import command_line
from engine.runtime import background, cloud_metadata, native_stderr, tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested

INTERRUPTED = 130  # what shells return for SIGINT
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: no failure, start it again


def main(work: Callable[[list[str]], None]) -> None:
    """Runs a program; a user's mistake is one line on the error stream and no traceback.

    Output that can't be written is dropped, and ends no work. A reader that has gone away, such as
    `head`, has seen enough; for any other reason the program ends with 1.
    """
    _silence_libraries()
    native_stderr.drop_decoder_noise()
    tensorflow_setup.skip_keras_extras()
    try:
        work(sys.argv)
        error = lost_output(sys.stdout)
        if error and error.errno != errno.EPIPE:
            raise UserError(
                f"part of the output can't be written ({error.strerror}); make room where it goes"
            )
    except UserError as error:
        raise _exit(error, 2 if isinstance(error, FlagError) else 1) from None
    except ShutdownRequested as error:
        reason = f"stopped by {error}; started again without --overwrite, it resumes"
        raise _exit(reason, STOPPED) from None
    except KeyboardInterrupt:
        background.cancel()
        reason = "interrupted; the same command starts it again"
        raise _exit(reason, INTERRUPTED) from None


def _silence_libraries() -> None:
    """Drops what libraries warn programmers of, unless Python was asked to show it."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _exit(reason: object, status: int) -> SystemExit:
    log(f"{_program()}: {reason}")
    return SystemExit(status)


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
