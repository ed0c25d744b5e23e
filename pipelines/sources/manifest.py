"""A manifest: a CSV file with the columns path and label, optionally split and group.

Other usual names of the two, such as filename and class, are read where one column has one. Further
columns are ignored. Cells are separated by commas, semicolons, tabs or bars; the text is UTF-8, or
UTF-16 with a byte order mark.

Relative paths count from the file's folder, so that both can move together, or from another root.
All must be below it after following links, so that a manifest from elsewhere can't reach other
files. Rows of one group, such as photographs of one object, stay in one split.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import functools
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.core.errors import UserError
from engine.core.text import counted, printable
from pipelines.sources.examples import SPLIT_NAMES, TRAIN, Examples, from_columns, split_of

# Of each required column: other names that are read, if no other column could be meant.
REQUIRED = {
    "path": (
        *("filename", "file_name", "file", "filepath", "file_path"),
        *("image", "image_path", "image_name", "img", "img_path"),
    ),
    "label": ("class", "class_name", "target", "category"),
}
OPTIONAL = ("split", "group")
# What columns are called that may be meant as these. Neither is guessed: both decide what is
# measured on which images.
_SIMILAR = {
    "split": re.compile(r"split|subset|partition|fold(?!er)|usage|phase|^set$|_set$"),
    "group": re.compile(r"group|patient|subject|person|session|scene|sequence"),
}
_DELIMITERS = ",;\t|"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_manifest(file: str, root: str | None = None) -> Examples:
    """Reads the rows as examples, in their order; the classes are the labels, sorted.

    Args:
      file: a CSV file with a header row; bytes that are no UTF-8 stay, as paths may contain
        any.
      root: the folder that relative paths count from and every path must be below; the file's own
        if None.

    Raises:
      UserError: it can't be read, lacks a column, or has an invalid row, with its line.
    """
    rows: dict[str, tuple[str, int, str, str]] = {}
    root = root_of(file, root)
    inside = _below(root)
    for line, row in _rows(file):
        where, path = f"{file}, line {line}", row["path"]
        label, split, group = (row.get(name, "").strip() for name in ("label", "split", "group"))
        number = split_of(split) if split else TRAIN  # see `splits.add_validation_split`
        _require_valid(where, path, label)
        if number is None:
            allowed = ", ".join(SPLIT_NAMES)
            raise UserError(f"{where}: split {split!r}; allowed: {allowed}, or empty")
        full = os.path.normpath(os.path.join(root, path))
        if not inside(full):
            also = "" if os.path.isabs(path) else ", and write this path relative to it or absolute"
            raise UserError(
                f"{where}: {printable(path)} is outside of {root}; name a folder above all images, "
                f"--manifest_root=DIR{also}"
            )
        key = os.path.relpath(full, root)
        if key in rows:
            raise UserError(f"{where}: duplicate path {printable(path)}; remove one of the rows")
        rows[key] = (label, number, group, full)
    names = sorted({label for label, *_ in rows.values()})
    labels, splits, groups, paths = zip(*rows.values(), strict=True) if rows else ((), (), (), ())
    places = {name: index for index, name in enumerate(names)}
    return from_columns(
        paths,
        [places[label] for label in labels],
        tuple(names),
        keys=list(rows),
        splits=splits,
        groups=groups,
    )


def root_of(file: str, root: str | None) -> str:
    """Returns the folder that relative paths count from, absolute."""
    return os.path.abspath(os.path.expanduser(os.path.dirname(file) if root is None else root))


def unread_columns(file: str) -> list[tuple[str, str]]:
    """Returns (column, `split` or `group`) for what looks like one that the manifest lacks.

    Raises:
      UserError: see `read_manifest`.
    """
    if not os.path.isfile(os.path.expanduser(file)):  # a pipe can't be read again
        return []
    with _open(file) as (columns, _):
        return [
            (column, name)
            for name, pattern in _SIMILAR.items()
            for column in columns
            if name not in columns and pattern.search(column)
        ]


def describe_missing(file: str, root: str | None, missing: list[str], count: int) -> str:
    """Describes the paths in a manifest that don't exist, of `count` that were looked for."""
    are = "does not exist" if len(missing) == 1 else "do not exist"
    return (
        f"{len(missing):,} of {counted(count, 'file', 'files')} that were looked for {are}, "
        f"such as {missing[0]}; relative paths count from {printable(root_of(file, root))}"
        f"{'' if root else ', or from --manifest_root=DIR'}"
    )


def _require_valid(where: str, path: str, label: str) -> None:
    if not path or not label:
        raise UserError(f"{where}: path {path!r}, label {label!r}; give both, or remove the row")
    if "\0" in path:
        raise UserError(
            f"{where}: the path contains a zero byte, which no file name can; remove it"
        )


def _below(root: str) -> Callable[[str], bool]:
    """Returns a test whether a path is below a folder after following all links."""
    real = functools.cache(os.path.realpath)
    start = os.path.join(real(root), "")

    def inside(path: str) -> bool:
        folder, name = os.path.split(path)
        place = os.path.join(real(folder), name)
        return (real(place) if os.path.islink(place) else place).startswith(start)

    return inside


def _rows(file: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, column -> cell) of each row; missing cells are empty."""
    with _open(file) as (columns, reader):
        for cells in reader:
            if any(cells):
                row = dict(zip(columns, cells, strict=False))
                yield reader.line_num, dict.fromkeys(columns, "") | row


@contextmanager
def _open(file: str) -> Iterator[tuple[list[str], Any]]:
    """Opens a manifest: the names of its columns, see `_columns`, and a reader of its rows.

    Raises:
      UserError: it can't be read, also within the block.
    """
    reader = None
    try:
        with open(os.path.expanduser(file), "rb") as stored:
            encoding = "utf-16" if stored.peek(2)[:2] in _UTF_16 else "utf-8-sig"
            text = io.TextIOWrapper(stored, encoding, errors="surrogateescape", newline="")
            first = text.readline()
            delimiter = max(_DELIMITERS, key=lambda mark: _fit(first, mark))
            lines = itertools.chain([first], text)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            yield _columns(file, next(reader, [])), reader
    except OSError as error:
        raise UserError(
            f"the manifest {printable(file)} can't be read: {error.strerror}; allowed: a CSV file "
            "with columns path and label"
        ) from None
    except (csv.Error, UnicodeError) as error:
        line = reader.line_num if reader else 1
        raise UserError(f"{file} is no CSV file, line {line}: {error}") from None


def _names(header: Sequence[str]) -> list[str]:
    return [cell.strip().lower() for cell in header]


def _fit(line: str, delimiter: str) -> tuple[int, int]:
    """Returns how many required columns a header has by this delimiter, and how many in all."""
    names = set(_names(next(csv.reader([line], delimiter=delimiter), [])))
    return sum(bool(names & {name, *REQUIRED[name]}) for name in REQUIRED), len(names)


def _columns(file: str, header: Sequence[str]) -> list[str]:
    """Returns the names of the columns in lower case, those that are read by their usual names.

    Raises:
      UserError: a required one is missing or may be one of several, or an optional one is misspelt.
    """
    names = _names(header)
    shown = f"{file} has the columns {printable(', '.join(names)) or '(none)'}"
    required = (f"{name} (or {', '.join(others)})" for name, others in REQUIRED.items())
    allowed = f"; allowed: {' and '.join(required)}, optionally {' and '.join(OPTIONAL)}"
    if any("\0" in name for name in names):
        raise UserError(
            f"{file} contains zero bytes; allowed: UTF-8, or UTF-16 with a byte order mark; "
            "save it as UTF-8"
        )
    for name in (*REQUIRED, *OPTIONAL):
        usual = {name, *REQUIRED.get(name, ())}
        fits = [c for c in names if c == name] or [c for c in names if c in usual]
        if len(fits) > 1:
            raise UserError(f"{shown}, of which {' and '.join(fits)} may be the {name!r}{allowed}")
        if fits:
            names[names.index(fits[0])] = name
            continue
        similar = difflib.get_close_matches
        near = [column for column in dict.fromkeys(names) if similar(column, usual, 1, 0.75)]
        if near or name in REQUIRED:
            hint = f" (is it {' or '.join(map(repr, near))}?)" if near else ""
            raise UserError(f"{shown} and no {name!r}{hint}{allowed}")
    return names
