"""A manifest of the images that are fit to train on."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections import Counter
from typing import NamedTuple

import numpy as np

from engine.core.errors import UserError
from pipelines.doctor import duplicates
from pipelines.doctor.examine import ExaminedDataset
from pipelines.sources.examples import SPLITS, TEST, VALIDATION, WHOLE_FILE, Examples

COLUMNS = ("path", "label", "split", "group")


class CleanManifest(NamedTuple):
    """The manifest's contents and what is in it.

    Attributes:
      listed: number of images.
      omitted: reason -> number of images.
    """

    contents: bytes
    listed: int
    omitted: dict[str, int]


def clean_manifest(examined: ExaminedDataset, file: str) -> CleanManifest:
    """Builds the manifest for the path `file`.

    It omits images that can't be decoded, all but one of duplicates (the one that is not trained
    on, where there is one), duplicates under different labels, and training images that are
    near-duplicates of validation or test images. Other near-duplicates get a common group, so that
    no later split separates them.

    Raises:
      UserError: the images are not files of their own.
    """
    examples = examined.examples
    if np.any(examples.lengths != WHOLE_FILE):
        raise UserError("images in record files have no path of their own to be listed by")
    reasons = _reasons(examined)
    groups = _groups(examined, reasons == "")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    folder = _outer_root(examples, file) or os.path.dirname(os.path.abspath(file))
    listed = np.flatnonzero(reasons == "").tolist()
    for index in listed:
        label = examples.classes[examples.labels[index]]
        split = SPLITS[examples.splits[index]]
        # A validation split that was taken from training may be chosen again the next time.
        fixed = split if examined.has_validation or split == "test" else ""
        writer.writerow((_place(examples.paths[index], folder), label, fixed, groups[index]))
    contents = text.getvalue().encode("utf-8", "surrogateescape")
    return CleanManifest(contents, len(listed), dict(Counter(filter(None, reasons))))


def manifest_flags(examples: Examples, file: str) -> str:
    """Returns the flags, quoted for a shell, with which a program reads the manifest."""
    root = _outer_root(examples, file)
    return shlex.join([f"--manifest={file}", *([f"--manifest_root={root}"] if root else [])])


def _outer_root(examples: Examples, file: str) -> str | None:
    """Returns the folder of all images, links followed, where it isn't in that of the manifest."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(file)))
    root = os.path.commonpath({os.path.dirname(os.path.realpath(path)) for path in examples.paths})
    return None if os.path.join(root, "").startswith(os.path.join(folder, "")) else root


def _reasons(examined: ExaminedDataset) -> np.ndarray:
    """Returns str [N]: why an example is not listed, "" where it is."""
    examples = examined.examples
    reasons = np.where(examined.fingerprints < 0, "that can't be read", "").astype(object)
    for group in duplicates.groups_of_equal(examined.fingerprints):
        if len(set(examples.labels[group].tolist())) > 1:
            reasons[group] = "under several labels"
        else:
            # The first of the test split stays, else of validation, else of training.
            stays = max(group.tolist(), key=lambda index: (examples.splits[index], -index))
            reasons[group[group != stays]] = "duplicates"
    held_out = _held_out(examined)
    for pairs in (examined.pairs, examined.pairs[:, ::-1]):
        leaks = pairs[(reasons[pairs] == "").all(axis=1) & held_out[pairs[:, 1]]]
        leaked = leaks[~held_out[leaks[:, 0]], 0]
        reasons[leaked] = "near-duplicates of validation or test images"
    return reasons


def _held_out(examined: ExaminedDataset) -> np.ndarray:
    """Returns bool [N]: test examples, and those of a validation split that came with the data."""
    splits = examined.examples.splits
    return (splits == TEST) | (examined.has_validation & (splits == VALIDATION))


def _groups(examined: ExaminedDataset, fit: np.ndarray) -> np.ndarray:
    """Returns str [N]: the groups of the data, merged where near-duplicates connect them."""
    examples, free = examined.examples, fit & ~_held_out(examined)
    groups = examples.groups.copy()
    alike = examined.pairs[free[examined.pairs].all(axis=1)]
    codes = np.where(groups == "", -1, np.unique(groups, return_inverse=True)[1])
    tied = [np.stack([g[:-1], g[1:]], axis=1) for g in duplicates.groups_of_equal(codes)]
    in_pairs = set(alike.ravel().tolist())
    for group in duplicates.connected_groups(len(examples), np.concatenate([alike, *tied])):
        if in_pairs & set(group.tolist()):
            names = sorted(set(groups[group].tolist()) - {""})
            groups[group] = names[0] if names else f"alike: {examples.keys[group[0]]}"
    return groups


def _place(path: str, folder: str) -> str:
    """Returns a relative path where it is below the folder, so that both can move together."""
    path = os.path.abspath(path)
    inside = path.startswith(os.path.join(folder, ""))
    return os.path.relpath(path, folder) if inside else path
