"""What is around a program: one line for a mistake, an exit status, a quiet TensorFlow."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from engine.cli import __main__ as command
from engine.cli import main as cli_main
from engine.cli import serve as cli_serve
from engine.cli.parsed_flags import FlagError
from engine.core.errors import UserError
from engine.runtime.shutdown import ShutdownRequested

ROOT = Path(__file__).resolve().parents[3]


def end_of(work, monkeypatch, capsys) -> tuple[int, str, str]:
    """Exit status, output and errors of a program that does this work."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/train", "--seed=3"])
    # This process goes on.
    monkeypatch.setattr(cli_main.background, "_cancelled", threading.Event())
    status = 0
    try:
        cli_main.main(work)
    except SystemExit as end:
        status = end.code
    return (status, *capsys.readouterr())


def raising(error):
    def work(argv):
        raise error

    return work


def test_program_receives_its_arguments(monkeypatch, capsys):
    found = end_of(lambda argv: print(*argv), monkeypatch, capsys)
    assert found == (0, "/somewhere/bin/train --seed=3\n", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such folder"), 1, "train: no such folder\n"),
        (FlagError("no such flag"), 2, "train: no such flag\n"),
        (
            ShutdownRequested("SIGTERM"),
            75,
            "train: stopped by SIGTERM; started again without --overwrite",
        ),
        (KeyboardInterrupt(), 130, "train: interrupted; the same command starts it again\n"),
    ],
)
def test_error_is_one_line_with_its_exit_status(error, status, line, monkeypatch, capsys):
    code, out, err = end_of(raising(error), monkeypatch, capsys)
    assert (code, out) == (status, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_interrupt_cancels_background_work(monkeypatch, capsys):
    end_of(raising(KeyboardInterrupt()), monkeypatch, capsys)
    with pytest.raises(InterruptedError):
        cli_main.background.yield_to_foreground()


def test_unexpected_exception_has_its_traceback(monkeypatch, capsys):
    with pytest.raises(ZeroDivisionError):
        end_of(raising(ZeroDivisionError()), monkeypatch, capsys)


def python(code: str, **settings) -> subprocess.Popen:
    """Starts a program of this code."""
    code = f"from engine.core.streams import open_streams; open_streams()\n{code}"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'bin'}", **settings}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


TWICE = """
import time
from engine.cli import main as cli_main
def work(argv):
    stop = cli_main.listen_for_shutdown(None, False)
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(0.02)
cli_main.main(work)
"""


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.05])
def test_two_signals_in_short_order_end_a_program_once(pause):
    """The second comes while it tidies up, says why it ends, or leaves the interpreter."""
    for second in (signal.SIGTERM, signal.SIGINT):
        with python(TWICE) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            time.sleep(pause)
            process.send_signal(second)
            err = process.stderr.read()
        assert process.returncode == 75, err
        assert err.count("\n") == 1
        assert ": stopped by SIG" in err


NOTICE = """
import sys, time
from engine.cli import main as cli_main
from engine.runtime import background, cloud_metadata
sys.argv = ["/somewhere/bin/train"]
cloud_metadata.watch_preemption = lambda notify: notify("the cloud") if {taken} else []
def work(argv):
    stop = cli_main.listen_for_shutdown("SIGUSR1", True)
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("over" if background._cancelled.wait(60) else "")
cli_main.main(work)
"""


def test_notice_of_the_cloud_ends_a_program():
    out, err = python(NOTICE.format(taken=True)).communicate(timeout=60)
    assert err.startswith("train: stopped by the cloud; started again")
    assert out == ""


def test_preemption_signal_ends_a_program_and_missing_cloud_is_reported():
    with python(NOTICE.format(taken=False)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "over\n", "what can wait is left undone"
        first, second = process.stderr.read().splitlines()
    assert first.startswith("train: --watch_preemption: neither AWS nor Google answers here")
    assert second.startswith("train: stopped by SIGUSR1; started again")
    assert process.returncode == 75


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "in the middle"])
def test_reader_that_goes_away_ends_no_work(lines, tmp_path):
    code = (
        "from engine.cli import main; import sys; input()\n"
        f"def work(argv): print('line\\n' * {lines}); print('so it is', file=sys.stderr)\n"
        f"def whole(argv): work(argv); open({str(tmp_path / 'report')!r}, 'w')\n"
        "main.main(whole)"
    )
    with python(code) as process:
        process.stdout.close()
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.close()
    assert process.returncode == 0
    assert (tmp_path / "report").exists()


def test_output_on_a_full_disk_is_one_line_after_the_work(tmp_path):
    code = (
        "import sys; from engine.cli import main; from engine.core import streams\n"
        "streams.open_streams(); main.main(lambda argv: print('so it is'))"
    )
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=-1, text=True, cwd=ROOT
        )
    assert ended.returncode == 1
    assert ended.stderr.endswith(
        ": part of the output can't be written (No space left on device); make room where it goes\n"
    )
    assert ended.stderr.count("\n") == 1


def test_console_command_names_a_missing_package_in_one_line(monkeypatch, capsys):
    def serve(argv):
        raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")

    monkeypatch.setattr(cli_serve, "main", serve)
    monkeypatch.setattr(cli_main.native_stderr, "drop_decoder_noise", lambda: None)
    monkeypatch.setattr(sys, "argv", ["/somewhere/unfreeze", "serve", "--port=1"])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    expected = "serve: the package aiohttp is missing; install Unfreeze as unfreeze[export,serve]\n"
    assert capsys.readouterr() == ("", expected)


def test_console_command_with_closed_streams_writes_into_no_file(tmp_path):
    """The number of a closed stream would be that of the first file."""
    code = (
        "import sys; from engine.cli import __main__ as command, train\n"
        f"train.main = lambda argv: print('text') or open({str(tmp_path / 'file')!r}, 'w')\n"
        "sys.argv = ['unfreeze', 'train']; command.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, preexec_fn=lambda: os.close(1))
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_letter_unknown_to_the_terminal_is_escaped():
    process = python(
        "from engine.cli import main; main.main(lambda argv: print('B\\xe4ume\\u2026 \\udcff'))",
        PYTHONIOENCODING="ascii",
    )
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out == "B\\xe4ume\\u2026 \\udcff\n"


@pytest.mark.parametrize("options", [[], ["default"]])
def test_libraries_warn_only_where_python_was_asked(monkeypatch, capsys, options):
    """Such as matplotlib and joblib of a home that can't be written."""
    logger = logging.getLogger("matplotlib")
    monkeypatch.setattr(sys, "warnoptions", options)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        end_of(lambda argv: warnings.warn("a library's", stacklevel=1), monkeypatch, capsys)
    assert len(caught) == len(options)
    assert (logger.level == logging.ERROR) == (not options)
