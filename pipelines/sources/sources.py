"""Where images come from: each source makes an index of examples out of a `DataSpec`.

A source is one function and one entry in `SOURCES`. It lists and labels; it decodes nothing.
Broken files stay in: they are found by their contents later (`pipelines.pixel_cache.scan`).
"""

from __future__ import annotations

import os
import re

from engine.core.errors import UserError, choose
from engine.core.recipe import DataSpec
from engine.core.text import printable
from pipelines.sources import manifest, splits
from pipelines.sources.examples import SPLITS, TEST, TRAIN, VALIDATION, Examples, from_columns

# What file managers and unpackers leave behind, in lower case. Hidden names are passed over anyway.
JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_NAMES_OF_PARTS = {"train": TRAIN, "val": VALIDATION, "validation": VALIDATION, "test": TEST}


def load_examples(spec: DataSpec) -> Examples:
    """The index of the data set, divided, and limited where `limit_examples` says so.

    Raises:
      UserError: see `listed` and `divided`.
    """
    return complete_splits(list_examples(spec), spec)


def list_examples(spec: DataSpec) -> Examples:
    """The index as it was arranged, unchecked; its validation part may be missing.

    Raises:
      UserError: the place does not exist, is remote, or does not hold what the source asks for.
    """
    source = choose(spec.source, SOURCES, "source")
    require_locations(spec)
    return source(spec)


def require_locations(spec: DataSpec) -> None:
    """Whether there is anything where the data are to lie; it costs nothing to ask.

    Raises:
      UserError: a place is remote, or does not exist.
    """
    for place in (spec.location, spec.validation_location, spec.test_location):
        if place and re.match(r"[a-z][a-z0-9+.-]*://", place, re.IGNORECASE):
            raise UserError(
                f"{place} is a remote place; allowed: files of this machine; copy it here first"
            )
        # What the library of data sets knows by name is fetched.
        if place and spec.source != "tfds" and not os.path.exists(os.path.expanduser(place)):
            what = "manifest" if spec.source == "manifest" else "folder"
            raise UserError(f"the {what} {printable(place)} does not exist; check its name")


def complete_splits(examples: Examples, spec: DataSpec) -> Examples:
    """What `listed` gave, checked, with a validation part, and limited where that is asked for.

    Raises:
      UserError: what `splits.complete` finds.
    """
    examples = splits.add_validation_split(examples, spec)
    return splits.limit_examples(examples, spec.limit_examples, spec.split_seed)


def from_folders(spec: DataSpec) -> Examples:
    """Folders of classes; or `train` and, if wished, `val` or `validation`, and `test` with them.

    Raises:
      UserError: see `load` and `parts_in`.
    """
    return _from_parts(find_split_folders(spec.location) or {TRAIN: spec.location})


def find_split_folders(place: str) -> dict[int, str]:
    """part -> its folder, where a place is divided so; empty where classes lie in it directly.

    Raises:
      UserError: it holds both `val` and `validation`, or other folders beside `train` and `val`.
    """
    inside = _folders_in(place)
    names = sorted(name for name in inside if name in _NAMES_OF_PARTS)
    others = [name for name in inside if name not in names]
    has_validation = "val" in names or "validation" in names
    # A class may be called train, as long as its neighbours are classes too.
    if "train" not in names or (others and not has_validation):
        return {}
    if "val" in names and "validation" in names:
        raise UserError(f"{place} holds both val/ and validation/; remove or rename one")
    if others:
        raise UserError(
            f"{place} holds {printable(others[0])}/ beside {', '.join(names)}; "
            "allowed: train, val or validation, and test; move it elsewhere"
        )
    return {_NAMES_OF_PARTS[name]: inside[name] for name in names}


def from_split_folders(spec: DataSpec) -> Examples:
    """Folders of classes, one place for each part."""
    places = {
        TRAIN: spec.location,
        VALIDATION: spec.validation_location,
        TEST: spec.test_location,
    }
    return _from_parts({part: place for part, place in places.items() if place})


def from_manifest(spec: DataSpec) -> Examples:
    """A CSV file; `pipelines.sources.manifest` says what it holds."""
    return manifest.read_manifest(spec.location, spec.manifest_root)


def from_tfds(spec: DataSpec) -> Examples:
    """A data set of TensorFlow Datasets; downloads and prepares it where that is still to do."""
    from pipelines.sources import tfds as tfds_source  # imports TensorFlow

    return tfds_source.load_tfds(spec)


def _from_parts(places: dict[int, str]) -> Examples:
    """All files below the class folders of each part, sorted by name."""
    folders = {part: _folders_in(place) for part, place in sorted(places.items())}
    for part, inside in folders.items():
        if not inside:
            raise UserError(
                f"{places[part]} holds no folders; put each class's images in a folder of its own"
            )
    names = sorted(set().union(*folders.values()))
    paths: list[str] = []
    keys: list[str] = []
    labels: list[int] = []
    parts: list[int] = []
    for part, inside in folders.items():
        # With a single place a key needs no part, and stays when validation is taken from it.
        prefix = f"{SPLITS[part]}/" if len(folders) > 1 else ""
        for name, folder in inside.items():
            files = _files_below(folder)
            paths += files
            keys += [f"{prefix}{name}/{os.path.relpath(file, folder)}" for file in files]
            labels += [names.index(name)] * len(files)
            parts += [part] * len(files)
    classes = tuple(printable(name) for name in names)
    return from_columns(paths, labels, classes, keys=keys, splits=parts)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _folders_in(place: str) -> dict[str, str]:
    """Name -> path of the folders in a place, hidden ones left out, sorted."""
    try:
        with os.scandir(os.path.expanduser(place)) as entries:
            found = {e.name: e.path for e in entries if e.is_dir() and not _is_junk(e.name)}
    except OSError as error:
        raise UserError(
            f"{printable(place)} can't be read as a folder: {error.strerror}; "
            "allowed: a folder with a folder of images for each class"
        ) from None
    return dict(sorted(found.items()))


def _files_below(folder: str) -> list[str]:
    """Every file below a folder, however deep, but hidden ones and junk, sorted.

    Links are followed, but each real folder is entered once, and the one above never: its other
    folders are other classes. A link that leads nowhere counts as a file, so that it is named as
    broken instead of being lost.
    """
    files: list[str] = []
    entered = {_identity(os.path.dirname(folder))}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            if _identity(place) in entered:
                continue
            entered.add(_identity(place))
            with os.scandir(place) as entries:
                found = sorted((e for e in entries if not _is_junk(e.name)), key=lambda e: e.name)
        except OSError as error:
            raise UserError(
                f"the folder {printable(place)} can't be read: {error.strerror}; "
                "give yourself the right to read it, or move it elsewhere"
            ) from None
        files += [entry.path for entry in found if _is_file(entry)]
        waiting += [entry.path for entry in reversed(found) if _is_folder(entry)]
    return sorted(files)


def _identity(place: str) -> tuple[int, int]:
    status = os.stat(place)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link that leads to none or to itself."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


SOURCES = {
    "folders": from_folders,
    "split_folders": from_split_folders,
    "tfds": from_tfds,
    "manifest": from_manifest,
}
