"""Copies and near copies: who belongs together, and whether that does harm."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipelines.doctor.kinds import Entry, Finding
from pipelines.sources.examples import SPLITS, TRAIN, Examples


def groups(count: int, pairs: np.ndarray) -> list[np.ndarray]:
    """Those of 0 to count - 1 that pairs (int [n, 2]) join, directly or through others; sorted."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    _, first, of = np.unique(
        connected_components(links, directed=False)[1], return_index=True, return_inverse=True
    )
    lowest = first[of]  # of each one's group
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
