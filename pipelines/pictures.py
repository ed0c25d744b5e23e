"""Pictures named on a command line: files, folders and web addresses -> pixels, or a problem."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from engine.specs import UserError
from pipelines import fetch

NAMES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what counts inside a folder
_AHEAD = 32  # pictures that are decoded together


def find(words: Iterable[str]) -> list[str]:
    """The files and addresses that the words mean; a folder means the pictures below it, sorted.

    Raises:
      UserError: a path that does not exist, or a folder without pictures.
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
    files = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(NAMES) and not name.startswith(".")
    ]
    if not files:
        raise UserError(f"{folder}: no pictures below it; allowed: {', '.join(NAMES)}")
    files.sort()
    return files


def read(
    places: Iterable[str],
    image_size: tuple[int, int],
    resize: str,
    allow_private: bool = False,
    threads: int | None = None,
) -> Iterator[tuple[str, np.ndarray | None, str | None]]:
    """(place, uint8 [H, W, 3], None), or (place, None, problem), for each place in turn.

    allow_private: see `fetch.fetch`. threads: all cores if not given.
    """
    from pipelines.stream import Stream  # imports TensorFlow

    threads = threads or len(os.sched_getaffinity(0))
    stream = Stream(list(places), image_size, resize, threads, allow_private)
    for group in stream.groups(_AHEAD):
        images = iter(np.asarray(group.images))
        for place, problem in zip(group.places, group.problems, strict=True):
            yield place, None if problem else next(images), problem
