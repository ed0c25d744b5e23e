"""Splits into training and validation: stratified, by whole groups, decided by examples' keys.

Every example has a rank, a hash of (split seed, key). The examples with the lowest ranks of each
class are for validation. So a split doesn't depend on the order of files or on a generator, and
adding or removing an image moves hardly any other.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources.examples import SPLITS, TRAIN, VALIDATION, WHOLE_FILE, Examples, join
from pipelines.sources.identical_files import first_identical_file


def rank_keys(keys: np.ndarray, seed: int) -> np.ndarray:
    """Returns a uniform hash of each key, uint64 [N], the same on every machine."""
    salt = str(seed).encode()
    digests = (
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=salt).digest()
        for key in keys
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def apportion(sizes: np.ndarray, total: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Apportions `total` in proportion to `sizes`, each share within [least, most].

    Largest remainders (Hamilton's method): shares are rounded down, and the rest goes to the
    largest remainders. `total` is clipped to the sums of `least` and `most` first.

    Returns:
      int64 [classes].
    """
    total = int(np.clip(total, least.sum(), most.sum()))
    exact = sizes * (total / max(int(sizes.sum()), 1))
    shares = np.clip(np.floor(exact).astype(np.int64), least, most)
    while (missing := total - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = np.flatnonzero(shares < most if missing > 0 else shares > least)
        # A stable sort: where remainders are equal, the first class comes first.
        order = np.argsort(-step * (exact - shares)[room], kind="stable")
        shares[room[order[: abs(missing)]]] += step
    return shares


def take_validation_split(examples: Examples, fraction: float, seed: int) -> Examples:
    """Moves some of the training examples to validation.

    Every class keeps at least one training example, and has at least one for validation if it has
    two or more. Sizes are exact unless groups are too large.

    Args:
      examples: those of other splits stay as they are.
      fraction: of the training examples, in (0, 1), or their number where it is >= 1.
      seed: `split_seed`.

    Raises:
      UserError: there are too few examples.
    """
    train = np.flatnonzero(examples.splits == TRAIN)
    training = examples.take(train)
    sizes = np.array(training.class_counts(), dtype=np.int64)
    wanted = _validation_quotas(sizes, fraction)
    grouped = bool(np.any(training.groups != ""))
    chosen = (_whole_groups if grouped else _lowest)(training, wanted, seed)
    splits = examples.splits.copy()
    splits[train[chosen]] = VALIDATION
    return examples.replace(splits=splits)


def _validation_quotas(sizes: np.ndarray, fraction: float) -> np.ndarray:
    least, most = (sizes >= 2).astype(np.int64), np.maximum(sizes - 1, 0)
    # Half an image counts as one: Python's round() would round to even.
    total = int(fraction if fraction >= 1 else sizes.sum() * fraction + 0.5)
    if most.sum() == 0:
        raise UserError(
            f"no class has the two images that a split into training and validation takes "
            f"({sizes.sum()} images in {len(sizes)} classes); add images, or give --val_dir"
        )
    if fraction >= 1 and not least.sum() <= total <= most.sum():
        raise UserError(
            f"validation_fraction={total} of {sizes.sum()} images in {len(sizes)} classes; "
            f"allowed: {least.sum()} to {most.sum()} images, or a fraction between 0 and 1"
        )
    return apportion(sizes, total, least, most)


def _lowest(examples: Examples, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Returns indices of the `wanted[c]` examples of each class c with the lowest ranks, sorted."""
    order = np.lexsort((rank_keys(examples.keys, seed), examples.labels))
    labels = examples.labels[order]
    starts = np.searchsorted(labels, np.arange(len(wanted)))
    return np.sort(order[np.arange(len(order)) - starts[labels] < wanted[labels]])


class _Unit(NamedTuple):
    """Examples that stay together: a group, or an example without one."""

    rank: int
    name: str
    members: list[int]
    classes: dict[int, int]  # label -> number of members

    def gain(self, shortage: np.ndarray) -> int:
        """Returns by how much taking this unit brings the classes nearer to their quotas."""
        return sum(
            abs(int(shortage[label])) - abs(int(shortage[label]) - count)
            for label, count in self.classes.items()
        )


def _units(examples: Examples, seed: int) -> list[_Unit]:
    """Returns the units in the order of their ranks. A group's rank is that of its name."""
    # The tag distinguishes a group's name from a key of the same text.
    members: dict[str, list[int]] = defaultdict(list)
    for index, (group, key) in enumerate(zip(examples.groups, examples.keys, strict=True)):
        members[f"group:{group}" if group else key].append(index)
    unique = np.array(list(members), dtype=object)
    units = [
        _Unit(int(rank), name, members[name], Counter(examples.labels[members[name]].tolist()))
        for rank, name in zip(rank_keys(unique, seed), unique, strict=True)
    ]
    return sorted(units, key=lambda unit: unit[:2])


def _whole_groups(examples: Examples, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Returns indices of units that meet the quotas as nearly as three passes over them can.

    First units that fit without excess, then those that bring the sizes nearer with excess, then
    one for each class that still has none. No unit is taken that would empty a training class.
    """
    shortage, left = wanted.copy(), np.array(examples.class_counts(), dtype=np.int64)
    rest, chosen = _units(examples, seed), []

    def take(unit: _Unit) -> None:
        chosen.extend(unit.members)
        for label, count in unit.classes.items():
            shortage[label] -= count
            left[label] -= count

    def spares(unit: _Unit) -> bool:
        return all(left[label] > count for label, count in unit.classes.items())

    def fits(unit: _Unit) -> bool:
        return all(shortage[label] >= count for label, count in unit.classes.items())

    for accepts in (fits, lambda unit: unit.gain(shortage) > 0):
        remaining = []
        for unit in rest:
            if spares(unit) and accepts(unit):
                take(unit)
            else:
                remaining.append(unit)
        rest = remaining
    for label in np.flatnonzero((wanted > 0) & (shortage == wanted)):
        able = [unit for unit in rest if label in unit.classes and spares(unit)]
        if able and shortage[label] == wanted[label]:
            best = max(able, key=lambda unit: unit.gain(shortage))
            rest.remove(best)
            take(best)
    return np.sort(np.array(chosen, dtype=np.int64))


def limit_examples(examples: Examples, count: int | None, seed: int) -> Examples:
    """Keeps at most `count` examples of each split, evenly over its classes, at least one of each.

    Raises:
      UserError: `count` is smaller than the number of classes.
    """
    if count is None:
        return examples
    limited = []
    for members in (examples.subset(split) for split in SPLITS):
        sizes = np.array(members.class_counts(), dtype=np.int64)
        present = (sizes > 0).astype(np.int64)
        if count < present.sum():
            raise UserError(
                f"limit_examples={count} with {present.sum()} classes; allowed: "
                f"{present.sum()} or more, so that each class keeps an image"
            )
        # By another seed: validation examples are those of the lowest ranks already.
        shares = apportion(sizes, count, present, sizes)
        limited.append(members.take(_lowest(members, shares, ~seed)))
    return join(limited)


def add_validation_split(examples: Examples, spec: DataSpec) -> Examples:
    """Adds a validation split where there is none.

    Files with the same content stay together; record files are not compared.

    Raises:
      UserError: see `take_validation_split`.
    """
    if np.any(examples.splits == VALIDATION):
        return examples
    files = bool(np.all(examples.lengths == WHOLE_FILE))
    tied = examples.replace(groups=_group_duplicates(examples)) if files else examples
    return take_validation_split(tied, spec.validation_fraction, spec.split_seed)


def _group_duplicates(examples: Examples) -> np.ndarray:
    """Returns groups in which duplicates of a file without a group have one in common."""
    first = first_identical_file(examples.paths)
    groups = examples.groups.copy()
    copies = np.flatnonzero(first != np.arange(len(first)))
    for index in np.union1d(copies, first[copies]):
        groups[index] = groups[index] or f"copies of {examples.keys[first[index]]}"
    return groups
