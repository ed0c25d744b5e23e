"""Checks of paths: links out of the folder or in a circle, odd names, images that are not read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator

from engine.core.findings import Case, Finding
from engine.core.recipe import DataSpec
from engine.core.text import printable
from pipelines.decode.headers import NAMES
from pipelines.doctor import kinds
from pipelines.sources import sources
from pipelines.sources.examples import Examples

_SUFFIXES = tuple(f".{suffix}" for suffixes in NAMES.values() for suffix in suffixes)


def check_paths(spec: DataSpec, examples: Examples) -> list[Finding]:
    """Reports what is unusual about the folders of the data and the names of the examples."""
    folders = spec.source in ("folders", "split_folders")
    locations = (spec.location, spec.validation_location, spec.test_location)
    roots = [os.path.realpath(location) for location in locations if location] if folders else []
    cases: dict[str, list[Case]] = defaultdict(list)
    for root in roots:
        for kind, path, detail in _check_links(root, roots):
            cases[kind].append(Case((printable(path),), detail))
        inner = sources.find_split_folders(root) if spec.source == "folders" else {}
        for parent in (root, *inner.values()):
            cases["stray"] += [Case((printable(path),)) for path in _images_in(parent)]
    cases["odd_name"] = [
        Case((examples.name(index),), examples=(index,))
        for index, path in enumerate(examples.paths)
        if path.encode(errors="ignore").decode() != path  # other bytes are surrogates
    ]
    return kinds.collect(cases)


def _check_links(root: str, roots: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, path, detail) of the links below a folder that lead out or in a circle."""
    for path in _links_below(root):
        target = os.path.realpath(path)
        detail = f"leads to {printable(target)}"
        if os.path.islink(target) or _is_inside(path, target):
            yield "link_circle", path, detail
        elif not any(_is_inside(target, root) for root in roots):
            yield "link_outside", path, detail


def _links_below(root: str) -> Iterator[str]:
    """Yields all links without following them. Only lists folders: no other system call."""
    waiting = [root]
    while waiting:
        entries = _entries(waiting.pop())
        yield from (entry.path for entry in entries if entry.is_symlink())
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Returns a folder's entries by name; none where it can't be read or has been removed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _images_in(folder: str) -> list[str]:
    """Returns images directly in a folder whose class folders alone are read."""
    entries = _entries(folder)
    return [e.path for e in entries if e.name.lower().endswith(_SUFFIXES) and e.is_file()]
