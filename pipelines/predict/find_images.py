"""Finds the images named on a command line: files, folders and URLs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from engine.core.errors import UserError
from pipelines.predict import fetch

NAMES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # read inside of a folder


def flush_interval(batch_size: int) -> int:
    """Returns the number of images after which a batch ends however full it is."""
    return 32 * batch_size


def find_images(words: Iterable[str], allow_private: bool = True) -> list[str]:
    """Returns files and URLs, with the sorted images below each folder in its place.

    An unreadable folder below is listed itself, and reported as unreadable later.

    Raises:
      UserError: a path that does not exist, a folder without images, or a URL that may not be
        fetched.
    """
    places: list[str] = []
    for word in words:
        if fetch.is_url(word) and not allow_private:
            fetch.require_public_host(word)
        if fetch.is_url(word) or os.path.isfile(word):
            places.append(word)
        elif os.path.isdir(word):
            places += _images_below(word)
        else:
            raise UserError(f"{word}: no such file or folder; give files, folders or http(s)://…")
    return places


def _images_below(folder: str) -> list[str]:
    unreadable: list[str] = []
    files = [
        os.path.join(place, name)
        for place, _, names in os.walk(
            folder, onerror=lambda error: unreadable.append(error.filename)
        )
        for name in names
        if name.lower().endswith(NAMES) and not name.startswith(".")
    ]
    files += unreadable
    if not files:
        raise UserError(f"{folder}: no images below it; allowed: {', '.join(NAMES)}")
    files.sort()
    return files
