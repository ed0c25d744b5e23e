"""The list of the images that are fit to train on, as `--manifest` reads it."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections import Counter
from typing import NamedTuple

import numpy as np

from engine.core.errors import UserError
from pipelines.doctor import copies
from pipelines.doctor.examine import ExaminedDataset
from pipelines.sources.examples import SPLITS, TEST, VALIDATION, WHOLE_FILE, Examples

COLUMNS = ("path", "label", "split", "group")
# Why an image is not listed; 0 is why one is.
FIT, BROKEN, MISLABELLED, COPY, NEAR_COPY = range(5)
REASONS = (
    "fit",
    "that can't be read",
    "under several labels",
    "second copies",
    "near copies of what is measured on",
)


class Clean(NamedTuple):
    """contents: of the manifest. listed: how many images. left_out: reason -> how many."""

    contents: bytes
    listed: int
    left_out: dict[str, int]


def manifest(examined: ExaminedDataset, file: str) -> Clean:
    """What a manifest that lies at `file` is to hold.

    What can't be decoded is left out, and so are second copies; of copies in several parts the one
    that is not trained on stays, and of copies under different labels none. An image that looks
    like one that is measured on for good is not trained on. Others that look the same get a common
    group, so that no later split parts them.

    Raises:
      UserError: the images are no files of their own, or two classes would have the same name.
    """
    examples = examined.examples
    if np.any(examples.lengths != WHOLE_FILE):
        raise UserError("images in record files have no place of their own to be listed by")
    _require_names(examples)
    why = _fitness(examined)
    rows, groups = np.flatnonzero(why == FIT), _groups(examined, why == FIT)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    folder = os.path.dirname(os.path.abspath(file))
    for index in rows.tolist():
        label = examples.classes[examples.labels[index]]
        split = SPLITS[examples.splits[index]]
        # What was taken from the training part may be taken otherwise the next time.
        fixed = split if examined.arranged or split == "test" else ""
        writer.writerow((_place(examples.paths[index], folder), label, fixed, groups[index]))
    contents = text.getvalue().encode("utf-8", "surrogateescape")
    counts = Counter(REASONS[reason] for reason in why[why != FIT].tolist())
    return Clean(contents, len(rows), dict(counts))


def flags(examples: Examples, file: str) -> str:
    """What to give a program so that it reads the manifest, as a shell takes it."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(file)))
    places = {os.path.dirname(os.path.realpath(path)) for path in examples.paths}
    root = os.path.commonpath(places)
    words = [f"--manifest={file}"]
    if not os.path.join(root, "").startswith(os.path.join(folder, "")):
        words.append(f"--manifest_root={root}")
    return shlex.join(words)


def _require_names(examples: Examples) -> None:
    names = Counter(name.strip() for name in examples.classes)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            f"--write_manifest: two class folders would both be called {twice[0]!r}; rename one"
        )


def _fitness(examined: ExaminedDataset) -> np.ndarray:
    """int [N]: FIT, or why an example is not."""
    examples = examined.examples
    why = np.where(examined.sound, FIT, BROKEN)
    for group in copies.of_same_bytes(examined.fingerprints):
        if len(set(examples.labels[group].tolist())) > 1:
            why[group] = MISLABELLED
        else:
            # Of equal ones the first stays; what is measured on before what is trained on.
            stays = max(group.tolist(), key=lambda index: (examples.splits[index], -index))
            why[group[group != stays]] = COPY
    measured = _measured(examined)
    for pairs in (examined.pairs, examined.pairs[:, ::-1]):
        leaks = pairs[(why[pairs] == FIT).all(axis=1) & measured[pairs[:, 1]]]
        trained = leaks[~measured[leaks[:, 0]], 0]
        why[trained] = NEAR_COPY
    return why


def _measured(examined: ExaminedDataset) -> np.ndarray:
    """bool [N]: an example is measured on, and not only as this split has it."""
    splits = examined.examples.splits
    return (splits == TEST) | (examined.arranged & (splits == VALIDATION))


def _groups(examined: ExaminedDataset, fit: np.ndarray) -> np.ndarray:
    """str [N]: the groups that there were, joined where images of two look the same."""
    examples, free = examined.examples, fit & ~_measured(examined)
    groups = examples.groups.copy()
    alike = examined.pairs[free[examined.pairs].all(axis=1)]
    together = [alike]
    members = np.flatnonzero(groups != "")
    members = members[np.argsort(groups[members], kind="stable")]
    same = groups[members[1:]] == groups[members[:-1]]
    together.append(np.stack([members[:-1], members[1:]], axis=1)[same])
    looked_alike = set(alike.ravel().tolist())
    for group in copies.groups(len(examples), np.concatenate(together)):
        if looked_alike & set(group.tolist()):
            names = sorted(set(groups[group].tolist()) - {""})
            groups[group] = names[0] if names else f"alike: {examples.keys[group[0]]}"
    return groups


def _place(path: str, folder: str) -> str:
    """Relative to the manifest where it lies below it, so that both can move together."""
    path = os.path.abspath(path)
    inside = path.startswith(os.path.join(folder, ""))
    return os.path.relpath(path, folder) if inside else path
