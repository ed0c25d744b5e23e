"""What setup.cfg asks for, how it is compared with what is there, and what the lock files pin."""

import ast
import os
import re
from importlib import metadata
from pathlib import Path

import _bootstrap
import pytest
from packaging.specifiers import SpecifierSet

BIN = Path(_bootstrap.__file__).parent
FILES = sorted(path for path in BIN.iterdir() if path.is_file())
STREAMS = BIN.parent / "engine/core/streams.py"  # which _bootstrap imports


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("2.21.3", "==2.21.*", True),
        ("2.2.1", "==2.21.*", False),
        ("2.21", "==2.21.0", True),
        ("2.9", ">=2.10", False),
        ("4.9.10.post1", ">=4.9.10", True),
        ("3", ">=3.0.0,<4", True),
        ("4.0", ">=3,<4", False),
        ("1.0", "!=1.0.0", False),
        ("1.0.1", "> 1.0, <= 1.0.1", True),
        ("7", "", True),
    ],
)
def test_specifiers(version, specifiers, expected):
    assert _bootstrap.fits(version, specifiers) is expected
    assert SpecifierSet(specifiers).contains(version) is expected


@pytest.mark.parametrize(
    "line", ["numpy[all]", "numpy; python_version < '3'", "numpy === 1", "numpy ~= 1.2"]
)
def test_what_the_check_cannot_read_is_an_error(line):
    with pytest.raises(ValueError, match=r"setup\.cfg: got the"):
        _bootstrap.is_met(line, metadata)


def test_a_missing_package_is_named_with_its_specifier(monkeypatch):
    monkeypatch.setattr(
        _bootstrap, "requirements", lambda extras: ["pytest<1", "pytest>=1", "no-x"]
    )
    assert _bootstrap.missing_requirements() == ["pytest<1", "no-x"]


@pytest.mark.parametrize("name", ["requirements-cpu.txt", "requirements-cuda.txt"])
def test_lock_files_pin_what_setup_cfg_asks_for(name):
    text = (BIN.parent / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    entries = text.replace("\\\n", "").splitlines()
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert all("--hash=sha256:" in entry for entry in entries)
    pinned = dict(re.match(r"([\w-]+)(?:\[.*\])?==([\w.]+)", entry).groups() for entry in entries)
    for requirement in _bootstrap.requirements(extras=("test",)):
        name, specifiers = _bootstrap.REQUIREMENT.match(requirement).group(1, 2)
        assert _bootstrap.fits(pinned[name.lower().replace("_", "-")], specifiers), requirement


@pytest.mark.parametrize("path", [*FILES, STREAMS], ids=lambda path: path.name)
def test_programs_can_be_read_by_old_interpreters(path):
    source = path.read_text()
    is_program = not path.suffix
    if is_program:
        assert os.access(path, os.X_OK)
        assert "_bootstrap.ensure(" in source
    if is_program or path.name in ("_bootstrap.py", "_venv.py", "streams.py"):
        ast.parse(source, feature_version=(3, 7))
