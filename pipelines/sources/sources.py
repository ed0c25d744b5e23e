"""Sources of images: each turns a `DataSpec` into an index of examples.

A source is one function and one entry in `SOURCES`. It lists and labels; it decodes nothing. Broken
files are listed too: `pipelines.pixel_cache.scan` finds them.
"""

from __future__ import annotations

import os
import re

from engine.core.errors import UserError, choose
from engine.core.recipe import DataSpec
from engine.core.text import printable, shorten
from pipelines.sources import manifest
from pipelines.sources.examples import (
    SPLIT_NAMES,
    SPLITS,
    TRAIN,
    VALIDATION,
    Examples,
    PassedOver,
    from_columns,
    split_of,
)
from pipelines.sources.find_images import find_images, list_folder
from pipelines.sources.splits import add_validation_split, limit_examples
from pipelines.sources.validate import validate_examples


def load_examples(spec: DataSpec) -> Examples:
    """Lists the examples to train on: checked, with a validation split, limited.

    Raises:
      UserError: see `list_examples` and `complete_splits`.
    """
    return complete_splits(list_examples(spec), spec)


def load_split(spec: DataSpec, split: str) -> Examples:
    """Lists one split, or `all`, to evaluate on: unchecked, limited, divided only if need be.

    Raises:
      UserError: see `list_examples`, `add_validation_split` and `limit_examples`.
    """
    examples = list_examples(spec)
    if split in (SPLITS[TRAIN], SPLITS[VALIDATION]):
        examples = add_validation_split(examples, spec)
    examples = limit_examples(examples, spec.limit_examples, spec.split_seed)
    return examples if split == "all" else examples.subset(split)


def list_examples(spec: DataSpec) -> Examples:
    """Lists the examples as they are stored, unchecked, perhaps without a validation split.

    Raises:
      UserError: the location does not exist, is remote, or is nothing that the source can read.
    """
    source = choose(spec.source, SOURCES, "source")
    require_locations(spec)
    return source(spec)


def require_locations(spec: DataSpec) -> None:
    """Requires that the locations exist and are local.

    Raises:
      UserError: a location is remote or does not exist.
    """
    others = (spec.validation_location, spec.test_location, spec.manifest_root)
    for place in (spec.location, *others):
        if place and re.match(r"[a-z][a-z0-9+.-]*://", place, re.IGNORECASE):
            raise UserError(
                f"{place} is a remote location; allowed: local files; copy it here first"
            )
        # TFDS data sets are names, and downloaded.
        if place and spec.source != "tfds" and not os.path.exists(os.path.expanduser(place)):
            what = "manifest" if spec.source == "manifest" and place == spec.location else "folder"
            raise UserError(f"the {what} {printable(place)} does not exist; check its name")


def complete_splits(examples: Examples, spec: DataSpec) -> Examples:
    """Checks listed examples, adds a validation split and limits them as the spec says.

    Raises:
      UserError: see `validate_examples`, `add_validation_split` and `limit_examples`.
    """
    validate_examples(examples)
    examples = add_validation_split(examples, spec)
    return limit_examples(examples, spec.limit_examples, spec.split_seed)


def from_folders(spec: DataSpec) -> Examples:
    """Lists class folders, or class folders in a folder for each split.

    Raises:
      UserError: see `find_split_folders`.
    """
    return _from_class_folders(class_parents(spec))


def class_parents(spec: DataSpec) -> dict[int, str]:
    """Returns split -> the folder with its class folders, for the sources of folders.

    Raises:
      UserError: see `find_split_folders`.
    """
    if spec.source == "folders":
        place = os.path.expanduser(spec.location)
        return find_split_folders(place) or {TRAIN: place}
    places = enumerate((spec.location, spec.validation_location, spec.test_location))
    return {split: os.path.expanduser(place) for split, place in places if place}


def find_split_folders(place: str) -> dict[int, str]:
    """Returns split -> folder, empty where a folder contains the class folders directly.

    Raises:
      UserError: it contains two folders for one split, folders beside the splits, or what may be
        splits of other names.
    """
    inside = _folders_in(place)
    splits = {name: split for name in inside if (split := split_of(name)) is not None}
    folders = {split: inside[name] for name, split in splits.items()}
    others = [name for name in inside if name not in splits]
    # A class may be called train, as long as it holds images and its neighbours are classes too.
    if others and not (TRAIN in folders and (VALIDATION in folders or _folders_in(folders[TRAIN]))):
        _require_different(place, inside)
        return {}
    if TRAIN not in folders and not any(map(_folders_in, folders.values())):
        return {}
    if len(folders) < len(splits):
        raise UserError(
            f"{place} contains {'/, '.join(splits)}/, two of them for one split; "
            "remove or rename one of these"
        )
    if others:
        raise UserError(
            f"{place} contains {printable(others[0])}/ beside {', '.join(splits)}; "
            f"allowed: splits alone ({', '.join(SPLIT_NAMES)}); move it elsewhere"
        )
    return folders


def _require_different(place: str, folders: dict[str, str]) -> None:
    """Refuses folders that hold folders of the same names: splits more likely than classes.

    A single one holds the classes, more likely than being one.
    """
    common: set[str] = set()
    for folder in folders.values():
        inside = set(_folders_in(folder))
        common = common & inside if common else inside
        if len(common) < 2:  # one, such as images/ in each class, is usual
            return
    held = f"({shorten(', '.join(sorted(common)), 80)})"
    if len(folders) == 1:
        raise UserError(
            f"{place} contains a single folder, which holds folders {held}; name that one, if "
            f"these are the classes: --data_dir={next(iter(folders.values()))}"
        )
    if folders:
        raise UserError(
            f"{place} contains {len(folders):,} folders that all hold the same folders {held}: "
            f"classes or splits? rename splits ({', '.join(SPLIT_NAMES)}), or name the folder of "
            f"classes: --train_dir={place}"
        )


def from_split_folders(spec: DataSpec) -> Examples:
    """Lists class folders in one folder for each split."""
    return _from_class_folders(class_parents(spec))


def from_manifest(spec: DataSpec) -> Examples:
    """Lists the rows of a CSV file; see `pipelines.sources.manifest`."""
    return manifest.read_manifest(spec.location, spec.manifest_root)


def from_tfds(spec: DataSpec) -> Examples:
    """Lists a data set of TensorFlow Datasets, after downloading and preparing it if need be."""
    from pipelines.sources import tfds as tfds_source  # imports TensorFlow

    return tfds_source.load_tfds(spec)


def _from_class_folders(places: dict[int, str]) -> Examples:
    """Lists the images below the class folders of each split, sorted by name."""
    passed_over: list[PassedOver] = []
    folders = {split: _folders_in(place, passed_over) for split, place in sorted(places.items())}
    for split, inside in folders.items():
        if not inside:
            raise UserError(
                f"{places[split]} contains no folders; put each class's images in its own folder"
            )
    names = sorted(set().union(*folders.values()))
    rows = []
    for split, inside in folders.items():
        # In a single folder keys don't name the split: it may change when validation is taken.
        prefix = f"{SPLITS[split]}/" if len(folders) > 1 else ""
        for name, folder in inside.items():
            label, below = names.index(name), f"{prefix}{name}/"
            found = find_images(folder)
            if found.unreadable:
                raise _unreadable_folder(found.unreadable[0])
            rows += [
                (file, label, split, below + os.path.relpath(file, folder)) for file in found.files
            ]
            passed_over += found.passed_over
    paths, labels, splits, keys = zip(*rows, strict=True) if rows else ((), (), (), ())
    return from_columns(
        paths, labels, tuple(names), keys=keys, splits=splits, passed_over=passed_over
    )


def _folders_in(place: str, passed_over: list[PassedOver] | None = None) -> dict[str, str]:
    """Returns name -> path of the folders in a folder, without hidden ones and junk, sorted."""
    others: list[PassedOver] = [] if passed_over is None else passed_over
    try:
        folders = list_folder(os.path.expanduser(place), others)[0]
    except OSError as error:
        raise UserError(
            f"{printable(place)} can't be read as a folder: {error.strerror}; "
            "allowed: a folder with a folder of images for each class"
        ) from None
    return {os.path.basename(folder): folder for folder in folders}


def _unreadable_folder(error: OSError) -> UserError:
    return UserError(
        f"the folder {printable(error.filename)} can't be read: {error.strerror}; "
        "give yourself the right to read it, or move it elsewhere"
    )


SOURCES = {
    "folders": from_folders,
    "split_folders": from_split_folders,
    "tfds": from_tfds,
    "manifest": from_manifest,
}
