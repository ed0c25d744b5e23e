"""The programs, started as a person starts them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[2]


def start(program, *arguments, cwd=ROOT, wrapper=(), **settings) -> subprocess.Popen:
    """`settings` are those of Popen; it knows the backbone tiny if `env` is not among them.

    Args:
      wrapper: a command that runs the one behind it.
    """
    command = [*wrapper, sys.executable, str(ROOT / "bin" / program), *map(str, arguments)]
    settings = {"env": tiny.environment(), **settings}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, **pipes, **settings)


def run(program, *arguments, cwd=ROOT) -> str:
    """Runs a program to its end without an error; returns what it prints."""
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def program(name: str):
    """The module whose `main` a program calls."""
    return importlib.import_module(f"engine.cli.{name}")


WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def without_tensorflow(name: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a program where TensorFlow can't be imported: whoever tries fails."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, ROOT / "bin" / name, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "bin")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
