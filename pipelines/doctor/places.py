"""Where the pictures lie: links out of the folder and in circles, odd names, what is not read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from engine.specs import DataSpec
from pipelines import sources
from pipelines.doctor.headers import NAMES
from pipelines.doctor.kinds import Entry, Finding
from pipelines.examples import Examples, printable

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
    for place, folders, files in os.walk(root):
        for path in (os.path.join(place, name) for name in sorted(folders + files)):
            if not os.path.islink(path):
                continue
            target = os.path.realpath(path)
            detail = f"leads to {printable(target)}"
            if os.path.islink(target) or _inside(path, target):
                yield path, "link_circle", detail
            elif not any(_inside(target, root) for root in roots):
                yield path, "link_outside", detail


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _strays(root: str) -> Iterator[tuple[str, str, str]]:
    """Pictures that lie in the folder itself, where only the folders in it count."""
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.lower().endswith(_SUFFIXES) and entry.is_file():
                yield entry.path, "stray", ""


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 stand in it as surrogates
        return False
    return True
