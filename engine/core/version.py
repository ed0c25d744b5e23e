"""The version of this program."""

from __future__ import annotations

import importlib.metadata
import re
from contextlib import suppress
from pathlib import Path


def version() -> str:
    """The version of setup.cfg in a checkout, else of the installed package."""
    with suppress(OSError):
        text = (Path(__file__).parents[2] / "setup.cfg").read_text("utf-8")
        if match := re.search(r"^version = (\S+)$", text, re.MULTILINE):
            return match[1]
    return importlib.metadata.version("unfreeze")
