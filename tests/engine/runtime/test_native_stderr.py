"""What native code writes to the error stream: noise of decoders goes, all else stays."""

import fcntl
import os
import shlex
import subprocess
import sys
import time

import pytest

from tests.bin.programs import ROOT

HUSH = "from engine.runtime import native_stderr\nnative_stderr.drop_decoder_noise()"


def said(work: str, **settings) -> subprocess.CompletedProcess:
    code = f"import os, signal, sys\n{HUSH}\n{work}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


LINES = (
    "Corrupt JPEG data: 12 extraneous bytes before marker 0xdb",
    "Unsupported JPEG process: SOF type 0xcb",
    "libpng warning: iCCP: known incorrect sRGB profile",
    "E0000 00:00:1795536000.447379    2006 jpeg_mem.cc:331] Premature end of JPEG data.",
)


@pytest.mark.parametrize("line", LINES)
def test_decoder_noise_is_dropped(line):
    assert said(f"os.write(2, {(line + chr(10)).encode()!r})").stderr == ""


def test_other_native_lines_pass_in_order():
    lines = "".join(f"E0000 line {number}: out of memory\n" for number in range(2000))
    assert said(f"os.write(2, {lines.encode()!r})").stderr == lines


def test_python_output_is_not_filtered():
    assert said("print('Corrupt JPEG data', file=sys.stderr)").stderr == "Corrupt JPEG data\n"


def test_last_line_before_abort_is_kept():
    ended = said("os.write(2, b'free(): invalid pointer\\n'); os.abort()")
    assert ended.stderr == "free(): invalid pointer\n"
    assert ended.returncode < 0


def test_signal_to_the_process_group_loses_no_line():
    work = (
        "os.setpgid(0, 0)\nsignal.signal(signal.SIGTERM, lambda *_: None)\n"
        "os.killpg(0, signal.SIGTERM)\nos.write(2, b'still here\\n')"
    )
    assert said(work).stderr == "still here\n"


def test_locks_are_free_after_the_process_died(tmp_path):
    """Though nobody reads what the filter has to pass on."""
    work = (
        f"import fcntl\nfile = open({str(tmp_path / 'lock')!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
    )
    code = f"import os, signal, sys\n{work}\n{HUSH}\n"
    code += (
        "print('held', flush=True)\nos.write(2, b'x' * 60000 + b'\\n' + b'y' * 60000 + b'\\n')\n"
    )
    code += "print('written', flush=True)\nsignal.pause()"
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        assert process.stdout.readline() == b"written\n"
        process.kill()
        process.wait()
        with open(tmp_path / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_program_without_stdin_loses_no_line(tmp_path):
    """As a shell starts it with `<&-`."""
    code = f"import os\n{HUSH}\nos.write(2, b'native\\n')"
    command = f"{sys.executable} -c {shlex.quote(code)} <&- 2> {tmp_path / 'said'}"
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    deadline = time.monotonic() + 30
    while (tmp_path / "said").read_text() != "native\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_redirected_python_stderr_is_left_alone(capfd):
    from engine.runtime import native_stderr

    before = sys.stderr
    native_stderr.drop_decoder_noise()
    assert sys.stderr is before
    os.write(2, b"Corrupt JPEG data\n")
    assert "Corrupt" in capfd.readouterr().err
