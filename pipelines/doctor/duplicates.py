"""Exact and near-duplicates: which belong together, and whether they do harm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from engine.core.findings import Case, Finding
from pipelines.doctor import kinds
from pipelines.sources.examples import SPLITS, TRAIN, Examples


def connected_groups(count: int, pairs: np.ndarray) -> list[np.ndarray]:
    """Groups the numbers below `count` that pairs (int [n, 2]) connect, directly or indirectly.

    Returns:
      groups of two or more, each sorted.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return groups_of_equal(connected_components(links, directed=False)[1])


def groups_of_equal(values: np.ndarray) -> list[np.ndarray]:
    """Groups the indices of equal values, in the order of the values.

    Args:
      values: int [n]; negative ones belong to no group.

    Returns:
      groups of two or more, each sorted.
    """
    order = np.argsort(values, kind="stable")
    order = order[values[order] >= 0]
    borders = np.flatnonzero(np.diff(values[order])) + 1
    return [group for group in np.split(order, borders) if len(group) > 1]


def duplicate_findings(
    examples: Examples, groups: Iterable[np.ndarray], name: str
) -> list[Finding]:
    """Sorts groups of duplicates by the harm that they do.

    Args:
      name: `duplicates` or `near_duplicates`; with `_of_other_label` or `_across_splits` it names
        the other kinds.
    """
    cases: dict[str, list[Case]] = defaultdict(list)
    for group in groups:
        labels, splits = examples.labels[group], examples.splits[group]
        kind = name
        if len(set(labels.tolist())) > 1:
            kind = f"{name}_of_other_label"
        elif TRAIN in splits and len(set(splits.tolist())) > 1:  # validation and test may overlap
            kind = f"{name}_across_splits"
        places = tuple(
            f"{examples.name(index)} ({SPLITS[split]}, {examples.classes[label]})"
            for index, split, label in zip(group.tolist(), splits, labels, strict=True)
        )
        cases[kind].append(Case(places, examples=tuple(group.tolist())))
    return kinds.collect(cases)
