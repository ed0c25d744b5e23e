"""Images named on a command line: files, folders and web addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable

from engine.core.errors import UserError
from pipelines.predict import fetch

NAMES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what counts inside a folder


def stretch(batch_size: int) -> int:
    """Places after which a batch ends however full it is; counted from the first of all."""
    return 32 * batch_size


def find(words: Iterable[str]) -> list[str]:
    """The files and addresses that the words mean; a folder means the images below it, sorted.

    A folder in it that can't be looked into stands there itself: it is one of what can't be read.

    Raises:
      UserError: a path that does not exist, or a folder without images.
    """
    found: list[str] = []
    for word in words:
        if fetch.is_url(word) or os.path.isfile(word):
            found.append(word)
        elif os.path.isdir(word):
            found += _inside(word)
        else:
            raise UserError(f"{word}: no such file or folder; give files, folders or http(s)://…")
    return found


def _inside(folder: str) -> list[str]:
    closed: list[str] = []
    files = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder, onerror=lambda error: closed.append(error.filename))
        for name in names
        if name.lower().endswith(NAMES) and not name.startswith(".")
    ]
    files += closed
    if not files:
        raise UserError(f"{folder}: no images below it; allowed: {', '.join(NAMES)}")
    files.sort()
    return files
