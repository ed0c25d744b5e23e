"""The list of the pictures that are fit to train on, as `--manifest` reads it."""

from __future__ import annotations

import csv
import io
import os

import numpy as np

from engine.specs import UserError
from pipelines.doctor import copies
from pipelines.doctor.examine import Examined
from pipelines.examples import SPLITS, TRAIN, WHOLE_FILE, Examples

COLUMNS = ("path", "label", "split", "group")


def manifest(examined: Examined, file: str) -> tuple[bytes, int]:
    """The contents of a manifest that lies at `file`, and how many pictures it lists.

    What can't be decoded is left out, and so are second copies; of copies in several parts the one
    that is not trained on stays, and of copies under different labels none. Pictures that look the
    same get a common group, so that no later split parts them; where the data came divided, those
    that are trained on make way for those that are measured on.

    Raises:
      UserError: the pictures are no files of their own.
    """
    examples = examined.examples
    if np.any(examples.lengths != WHOLE_FILE):
        raise UserError("pictures in record files have no place of their own to be listed by")
    keep = examined.sound & ~_spare_copies(examined)
    alike = copies.groups(len(examples), examined.pairs)
    groups = examples.groups.copy()
    for number, group in enumerate(alike):
        measured = group[keep[group] & (examples.splits[group] != TRAIN)]
        if examined.arranged and len(measured):
            keep[group[examples.splits[group] == TRAIN]] = False
        for index in group:
            groups[index] = groups[index] or f"alike {number + 1}"
    rows = np.flatnonzero(keep)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    folder = os.path.dirname(os.path.abspath(file))
    for index in rows.tolist():
        label = examples.classes[examples.labels[index]]
        path = _place(examples.paths[index], folder)
        writer.writerow((path, label, _split(examined, index), groups[index]))
    return text.getvalue().encode("utf-8", "surrogateescape"), len(rows)


def flags(examples: Examples, file: str) -> str:
    """What to give a program so that it reads the manifest."""
    folder = os.path.join(os.path.dirname(os.path.abspath(file)), "")
    root = os.path.commonpath([os.path.abspath(path) for path in examples.paths])
    inside = os.path.join(root, "").startswith(folder)
    return f"--manifest={file}" + ("" if inside else f" --manifest_root={os.path.dirname(root)}")


def _spare_copies(examined: Examined) -> np.ndarray:
    """bool [N]: copies of others that stay, and all copies whose labels disagree."""
    examples: Examples = examined.examples
    spare = np.zeros(len(examples), dtype=bool)
    for group in copies.of_same_bytes(examined.fingerprints):
        spare[group] = True
        if len(set(examples.labels[group].tolist())) == 1:
            spare[max(group.tolist(), key=lambda index: examples.splits[index])] = False
    return spare


def _place(path: str, folder: str) -> str:
    """Relative to the manifest where it lies below it, so that both can move together."""
    path = os.path.abspath(path)
    inside = path.startswith(os.path.join(folder, ""))
    return os.path.relpath(path, folder) if inside else path


def _split(examined: Examined, index: int) -> str:
    """As it came: what was taken from the training part may be taken otherwise the next time."""
    split = SPLITS[examined.examples.splits[index]]
    return split if examined.arranged or split == "test" else ""
