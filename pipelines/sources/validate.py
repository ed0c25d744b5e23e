"""Checks of a data set of files before any image is read."""

from __future__ import annotations

import numpy as np

from engine.core.errors import UserError
from engine.core.text import printable
from pipelines.sources.examples import SPLITS, VALIDATION, Examples
from pipelines.sources.identical_files import first_identical_file


def validate_examples(examples: Examples) -> None:
    """Checks classes and splits; the validation split may be missing.

    Raises:
      UserError: no image, an empty or a single class, a class in one split only, or a group or the
        same file in two splits.
    """
    require_classes(examples)
    for name, count in zip(examples.classes, examples.class_counts(), strict=True):
        if count == 0:
            raise UserError(f"class {name!r} has no images; add some, or remove its empty folder")
    has_validation = bool(np.any(examples.splits == VALIDATION))
    _check_every_class(examples, SPLITS[:2] if has_validation else SPLITS[:1])
    if len(np.unique(examples.splits)) > 1:
        _check_groups(examples)
        _check_copies(examples)


def require_classes(examples: Examples) -> None:
    """Raises a UserError where there is no image or fewer than two classes."""
    if not len(examples):
        raise UserError("no images at all; put each class's images in a folder of its own")
    if len(examples.classes) < 2:
        raise UserError(
            f"only one class, {examples.classes[0]!r}; a classifier needs two or more: "
            "put each class's images in a folder of its own"
        )


def _check_every_class(examples: Examples, splits: tuple[str, ...]) -> None:
    counts = {split: examples.subset(split).class_counts() for split in SPLITS}
    for label, name in enumerate(examples.classes):
        for split in splits:
            if counts[split][label] == 0:
                where = " and ".join(other for other in SPLITS if counts[other][label])
                raise UserError(
                    f"class {name!r} has images in {where} but none in {split}; "
                    f"give it some in {split} too, or remove it from {where}"
                )


def _check_groups(examples: Examples) -> None:
    splits: dict[str, int] = {}
    for group, split in zip(examples.groups, examples.splits, strict=True):
        if group and splits.setdefault(group, split) != split:
            raise UserError(
                f"group {group!r} is in {SPLITS[splits[group]]} and in {SPLITS[split]}; "
                "give all its rows the same split"
            )


def _check_copies(examples: Examples) -> None:
    first = first_identical_file(examples.paths, apart=examples.splits)
    clash = np.flatnonzero(examples.splits != examples.splits[first])
    if len(clash):
        one, other = int(first[clash[0]]), int(clash[0])
        more = f" ({len(clash)} files are in two splits)" if len(clash) > 1 else ""
        raise UserError(
            f"the same file is in {SPLITS[examples.splits[one]]} and in "
            f"{SPLITS[examples.splits[other]]}{more}: {printable(examples.paths[one])} and "
            f"{printable(examples.paths[other])}; remove one of the two"
        )
