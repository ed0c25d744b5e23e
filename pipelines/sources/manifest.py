"""A manifest: a CSV file with the columns path and label, optionally split and group.

Other columns are ignored. Relative paths are relative to the file's folder, so that both can move
together. All must be below one folder after following links, so that a manifest from elsewhere
can't reach other files. Rows of one group, such as photographs of one object, stay in one split.
"""

from __future__ import annotations

import csv
import difflib
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from engine.core.errors import UserError
from engine.core.text import counted, printable
from pipelines.sources.examples import SPLIT_NAMES, TRAIN, Examples, from_columns

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group")
# A row without a split is for training; see `splits.add_validation_split`.
_SPLITS = {"": TRAIN, **SPLIT_NAMES}


def read_manifest(file: str, root: str | None = None) -> Examples:
    """Reads the rows as examples, in their order; the classes are the labels, sorted.

    Args:
      file: a CSV file with a header row, UTF-8; other bytes are kept, as paths may contain any.
      root: the folder that every path must be below; the file's own if None.

    Raises:
      UserError: it can't be read, lacks a column, or has an invalid row, with its line.
    """
    rows: dict[str, tuple[str, int, str, str]] = {}
    folder = os.path.dirname(os.path.abspath(os.path.expanduser(file)))
    root = folder if root is None else root
    inside = _below(root)
    for line, row in _rows(file):
        where, path = f"{file}, line {line}", row["path"]
        label, split, group = (row.get(name, "").strip() for name in ("label", "split", "group"))
        _require_valid(where, path, label, split)
        full = os.path.normpath(os.path.join(folder, path))
        if not inside(full):
            raise UserError(
                f"{where}: {printable(path)} is outside of {root}; put the manifest above its "
                "images, or name their folder: --manifest_root=DIR (/ for anywhere)"
            )
        key = os.path.relpath(full, folder)
        if key in rows:
            raise UserError(f"{where}: duplicate path {printable(path)}; remove one of the rows")
        rows[key] = (label, _SPLITS[split.lower()], group, full)
    names = sorted({label for label, *_ in rows.values()})
    labels, splits, groups, paths = zip(*rows.values(), strict=True) if rows else ((), (), (), ())
    places = {name: index for index, name in enumerate(names)}
    return from_columns(
        paths,
        [places[label] for label in labels],
        tuple(printable(name) for name in names),
        keys=list(rows),
        splits=splits,
        groups=groups,
    )


def describe_missing(file: str, missing: list[str], count: int) -> str:
    """Describes the paths in a manifest that don't exist, of `count` that were looked for."""
    folder = os.path.dirname(os.path.abspath(os.path.expanduser(file)))
    are = "does not exist" if len(missing) == 1 else "do not exist"
    return (
        f"{len(missing):,} of {counted(count, 'file', 'files')} that were looked for {are}, "
        f"such as {missing[0]}; the manifest's paths are relative to {printable(folder)}"
    )


def _require_valid(where: str, path: str, label: str, split: str) -> None:
    if not path or not label:
        raise UserError(f"{where}: path {path!r}, label {label!r}; give both, or remove the row")
    if "\0" in path:
        raise UserError(
            f"{where}: the path contains a zero byte, which no file name can; remove it"
        )
    if split.lower() not in _SPLITS:
        raise UserError(f"{where}: split {split!r}; allowed: train, validation, test, or empty")


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
    try:
        with open(
            os.path.expanduser(file), encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text:
            reader = csv.DictReader(text, restval="", strict=True)
            reader.fieldnames = _columns(file, reader.fieldnames or [])
            for row in reader:
                if any(row.values()):
                    yield reader.line_num, row
    except OSError as error:
        raise UserError(
            f"the manifest {printable(file)} can't be read: {error.strerror}; allowed: a CSV file "
            "with columns path and label"
        ) from None
    except csv.Error as error:
        raise UserError(f"{file} is no CSV file, line {reader.line_num}: {error}") from None


def _columns(file: str, header: Sequence[str]) -> list[str]:
    """Returns the names of the columns in lower case.

    Raises:
      UserError: a required one is missing, or an optional one is misspelt.
    """
    names = [cell.strip().lower() for cell in header]
    for name in (*REQUIRED, *OPTIONAL):
        others = set(names) - {*REQUIRED, *OPTIONAL}
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.75)
        if name not in names and (near or name in REQUIRED):
            hint = f" (is it {near[0]!r}?)" if near else ""
            raise UserError(
                f"{file} has the columns {printable(', '.join(names)) or '(none)'} "
                f"and no {name!r}{hint}; "
                f"allowed: {', '.join(REQUIRED)} and optionally {', '.join(OPTIONAL)}"
            )
    return names
