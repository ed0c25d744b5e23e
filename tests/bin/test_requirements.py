"""The requirements of setup.cfg, how installed versions meet them, and what lock files pin."""

import ast
import os
import re
from importlib import metadata
from pathlib import Path

import _bootstrap
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

BIN = Path(_bootstrap.__file__).parent
STREAMS = BIN.parent / "engine" / "core" / "streams.py"  # which _bootstrap imports
FILES = [STREAMS, *(path for path in sorted(BIN.iterdir()) if path.is_file())]


@pytest.mark.parametrize(
    ("version", "specifier", "expected"),
    [
        ("2.21.3", "==2.21.*", True),
        ("2.2.1", "==2.21.*", False),
        ("2.9", ">=2.10", False),
        ("4.9.10.post1", ">=4.9.10", True),
        ("3", ">=3.0.0", True),
        ("7", "", True),
    ],
)
def test_requirement_is_met_as_packaging_says(version, specifier, expected, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert _bootstrap.is_met(f"numpy{specifier}", metadata) is expected
    assert SpecifierSet(specifier).contains(version) is expected


@pytest.mark.parametrize("line", ["numpy[all]", "numpy; python_version < '3'", "numpy<3"])
def test_unknown_form_of_a_requirement_is_an_error(line):
    with pytest.raises(ValueError, match=r"setup\.cfg: got the"):
        _bootstrap.is_met(line, metadata)


def test_missing_package_is_named_with_its_specifier(monkeypatch):
    lines = ["pytest==1.*", "pytest>=1", "no-x"]
    monkeypatch.setattr(_bootstrap, "requirements", lambda extras: lines)
    assert _bootstrap.missing_requirements() == ["pytest==1.*", "no-x"]


@pytest.mark.parametrize("name", ["requirements-cpu.txt", "requirements-cuda.txt"])
def test_lock_file_pins_what_setup_cfg_requires(name):
    text = (BIN.parent / name).read_text()
    assert not any(word in text for word in ("://", "--index", "--find-links"))
    entries = text.replace("\\\n", "").splitlines()
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert all("--hash=sha256:" in entry for entry in entries)
    pinned = dict(re.match(r"([\w-]+)(?:\[.*\])?==([\w.]+)", entry).groups() for entry in entries)
    for line in _bootstrap.requirements(extras=("export", "serve", "test")):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_program_can_be_read_by_old_interpreters(path):
    assert path.suffix or os.access(path, os.X_OK)
    ast.parse(path.read_text(), feature_version=(3, 7))
