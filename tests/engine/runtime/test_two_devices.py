"""The tests of `on_two_devices.py`, run in a process that has two processors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TESTS = Path(__file__).with_name("on_two_devices.py")


def test_training_on_two_devices(tmp_path, request):
    marks = [] if request.config.getoption("--slow") else ["-m", "not slow"]
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'there'}", *marks]
    command = [sys.executable, "-m", "pytest", str(TESTS), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
