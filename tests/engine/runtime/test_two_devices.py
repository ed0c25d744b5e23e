"""Each test of `on_two_devices.py`, run in a process that has two processors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]
TESTS = Path(__file__).with_name("on_two_devices.py")
NAMES = re.findall(r"^def (test_\w+)", TESTS.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def failures(tmp_path_factory, request) -> dict[str, list[str]]:
    """Why each test failed, with each set of its values: an empty text where it passed."""
    report = tmp_path_factory.mktemp("two") / "report.xml"
    places = [f"--junitxml={report}", f"--basetemp={report.parent / 'there'}"]
    command = [sys.executable, "-m", "pytest", str(TESTS), "-p", "no:cacheprovider", *places]
    command += [] if request.config.getoption("--slow") else ["-m", "not slow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        reasons = [verdict.text or verdict.get("message", "not run") for verdict in case]
        found.setdefault(case.get("name", "").split("[")[0], []).append("\n".join(reasons))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_on_two_devices(failures, name):
    assert name in failures, "not run"
    assert not any(failures[name]), "\n".join(failures[name])
