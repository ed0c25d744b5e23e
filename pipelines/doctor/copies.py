"""Copies and near copies: who belongs together, and whether that does harm."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipelines.doctor.kinds import Entry, Finding
from pipelines.examples import SPLITS, TRAIN, Examples


def groups(count: int, pairs: np.ndarray) -> list[np.ndarray]:
    """Those of 0 to count - 1 that pairs (int [n, 2]) join, directly or through others; sorted."""
    lowest = np.arange(count)  # of the group, as far as it is known
    one, other = pairs[:, 0], pairs[:, 1]
    while np.any(apart := lowest[one] != lowest[other]):
        one, other = one[apart], other[apart]
        least = np.minimum(lowest[one], lowest[other])
        for members in (one, other):
            np.minimum.at(lowest, lowest[members], least)
            np.minimum.at(lowest, members, least)
        while np.any(lowest[lowest] != lowest):
            lowest = lowest[lowest]
    order = np.argsort(lowest, kind="stable")
    borders = np.flatnonzero(np.diff(lowest[order])) + 1
    return [group for group in np.split(order, borders) if len(group) > 1]


def of_same_bytes(fingerprints: np.ndarray) -> list[np.ndarray]:
    """Groups of two or more whose fingerprints (int64 [n], -1 where there is none) are equal."""
    order = np.argsort(fingerprints, kind="stable")
    order = order[fingerprints[order] >= 0]
    borders = np.flatnonzero(np.diff(fingerprints[order])) + 1
    return [group for group in np.split(order, borders) if len(group) > 1]


def findings(examples: Examples, together: Iterable[np.ndarray], name: str) -> list[Finding]:
    """`name_of_other_label`, `name_across_parts` and `name`: each group in the first that fits."""
    found: dict[str, list[Entry]] = {}
    for group in together:
        labels, splits = examples.labels[group], examples.splits[group]
        # What is measured on may repeat itself; what was trained on must not come again.
        leaks = TRAIN in splits and len(set(splits.tolist())) > 1
        kind = f"{name}_across_parts" if leaks else name
        if len(set(labels.tolist())) > 1:
            kind = f"{name}_of_other_label"
        places = tuple(
            f"{examples.name(index)} ({SPLITS[split]}, {examples.classes[label]})"
            for index, split, label in zip(group.tolist(), splits, labels, strict=True)
        )
        found.setdefault(kind, []).append(Entry(places, examples=tuple(group.tolist())))
    return [Finding(kind, tuple(entries)) for kind, entries in found.items()]
