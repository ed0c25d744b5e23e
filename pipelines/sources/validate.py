"""Checks of what is to be trained on, before any image is read."""

from __future__ import annotations

import numpy as np

from engine.core.errors import UserError
from engine.core.text import printable
from pipelines.sources.examples import SPLITS, TRAIN, WHOLE_FILE, Examples
from pipelines.sources.find_images import describe_passed_over
from pipelines.sources.identical_files import first_identical_file


def validate_examples(examples: Examples) -> None:
    """Checks classes and splits; validation and test may lack classes, or be missing.

    Of record files only that there is something to train on is checked.

    Raises:
      UserError: no image to train on, fewer than two classes, a class without training images, or a
        group or the same file in two splits.
    """
    _require_classes(examples)
    if np.any(examples.lengths != WHOLE_FILE):
        return
    _require_training_images(examples)
    if len(np.unique(examples.splits)) > 1:
        _check_groups(examples)
        _check_copies(examples)


def missing_classes(examples: Examples) -> list[tuple[str, str]]:
    """Returns (split, class) for the classes that a split lacks, of splits with images."""
    parts = ((split, examples.subset(split)) for split in SPLITS)
    return [
        (split, name)
        for split, part in parts
        if len(part)
        for name, count in zip(part.classes, part.class_counts(), strict=True)
        if not count
    ]


def _require_classes(examples: Examples) -> None:
    if not len(examples):
        others = describe_passed_over(examples.passed_over)
        raise UserError(
            f"no images at all{others and f'; {others}'}; "
            "put each class's images in a folder of its own"
        )
    if len(examples.classes) < 2:
        raise UserError(
            f"only one class, {examples.classes[0]!r}; a classifier needs two or more: "
            "put each class's images in a folder of its own"
        )
    if not np.any(examples.splits == TRAIN):
        raise UserError(
            f"no images to train on, only in {_splits_of(examples)}; name those to train on, or "
            "write a manifest and give --manifest"
        )


def _require_training_images(examples: Examples) -> None:
    counts = examples.subset(SPLITS[TRAIN]).class_counts()
    for label, (name, count) in enumerate(zip(examples.classes, counts, strict=True)):
        if not count:
            where = _splits_of(examples.take(examples.labels == label))
            others = describe_passed_over(examples.passed_over)
            raise UserError(
                f"class {name!r} has images in {where} but none in train; "
                f"give it some in train too, or remove it from {where}"
                if where
                else f"class {name!r} has no images{others and f'; {others}'}; "
                "add some, or remove its folder"
            )


def _splits_of(examples: Examples) -> str:
    return " and ".join(SPLITS[split] for split in np.unique(examples.splits))


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
