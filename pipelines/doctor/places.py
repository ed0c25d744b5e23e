"""Where the images lie: links out of the folder and in circles, odd names, what is not read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from engine.core.recipe import DataSpec
from engine.core.text import printable
from pipelines.decode.headers import NAMES
from pipelines.doctor.kinds import Entry, Finding
from pipelines.sources import sources
from pipelines.sources.examples import Examples

_SUFFIXES = tuple(f".{suffix}" for suffixes in NAMES.values() for suffix in suffixes)


def findings(spec: DataSpec, examples: Examples) -> list[Finding]:
    """What the folders and the names of the examples have that somebody should know."""
    folders = spec.source in ("folders", "split_folders")
    given = (spec.location, spec.validation_location, spec.test_location)
    roots = [os.path.realpath(place) for place in given if place] if folders else []
    found: dict[str, list[Entry]] = {}
    for root in roots:
        places = [root, *sources.parts_in(root).values()] if spec.source == "folders" else [root]
        strays = itertools.chain.from_iterable(map(_strays, places))
        for path, kind, detail in (*_links(root, roots), *strays):
            found.setdefault(kind, []).append(Entry((printable(path),), detail))
    for index, path in enumerate(examples.paths):
        if not _is_text(path):
            entry = Entry((examples.name(index),), examples=(index,))
            found.setdefault("odd_name", []).append(entry)
    return [Finding(kind, tuple(entries)) for kind, entries in found.items()]


def _links(root: str, roots: list[str]) -> Iterator[tuple[str, str, str]]:
    """(path, kind, detail) of the links below a folder that lead out of all, or in a circle."""
    for path in _links_below(root):
        target = os.path.realpath(path)
        detail = f"leads to {printable(target)}"
        if os.path.islink(target) or _inside(path, target):
            yield path, "link_circle", detail
        elif not any(_inside(target, root) for root in roots):
            yield path, "link_outside", detail


def _links_below(root: str) -> Iterator[str]:
    """All of them, none followed. Asks the system for nothing but the lists of names."""
    waiting = [root]
    while waiting:
        entries = _entries(waiting.pop())
        yield from (entry.path for entry in entries if entry.is_symlink())
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; nothing where it can't be read or is gone."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _strays(root: str) -> Iterator[tuple[str, str, str]]:
    """Images that lie in the folder itself, where only the folders in it count."""
    for entry in _entries(root):
        if entry.name.lower().endswith(_SUFFIXES) and entry.is_file():
            yield entry.path, "stray", ""


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 stand in it as surrogates
        return False
    return True
