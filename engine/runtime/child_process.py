"""How this package starts itself as another process, whatever the working directory holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this interpreter; needs `module_environment`."""
    return [sys.executable, "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """The environment in which a child process imports the packages that this one imports."""
    paths = [str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    # From Python 3.11 on, a module of the same name in the working directory is passed over.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
