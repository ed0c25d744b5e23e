"""Who trains and who validates: stratified, whole groups, decided by the examples' own keys.

Every example has a rank, a hash of (split seed, key). The examples with the lowest ranks of each
class validate. So a split depends on no order of files and on no generator, and an image that is
added or removed moves hardly any other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import validate as checks
from pipelines.sources.duplicates import first_of_same_content
from pipelines.sources.examples import SPLITS, TRAIN, VALIDATION, WHOLE_FILE, Examples, join


def rank_keys(keys: np.ndarray, seed: int) -> np.ndarray:
    """A stateless draw for each key: uint64 [N], equally spread, the same on every machine."""
    salt = str(seed).encode()
    digests = (
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=salt).digest()
        for key in keys
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def apportion(sizes: np.ndarray, total: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """`total` dealt out in proportion to `sizes`, each share within [least, most].

    Largest remainders (Hamilton's method): shares are rounded down, and what is left goes to those
    that lost most. `total` is brought within the sums of `least` and `most` first.

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
    """The same examples with part of the training examples moved to validation.

    Every class keeps at least one training example, and gets at least one for validation where it
    has two or more. Sizes are exact, unless groups are too large to meet them.

    Args:
      examples: those whose split is not train are left as they are.
      fraction: the share of the training examples, in (0, 1), or their number where it is >= 1.
      seed: `split_seed`.

    Raises:
      UserError: as many examples can't be taken.
    """
    train = np.flatnonzero(examples.splits == TRAIN)
    part = examples.take(train)
    sizes = np.array(part.class_counts(), dtype=np.int64)
    wanted = _validation_quotas(sizes, fraction)
    grouped = bool(np.any(part.groups != ""))
    chosen = _whole_groups(part, wanted, seed) if grouped else _lowest(part, wanted, seed)
    splits = examples.splits.copy()
    splits[train[chosen]] = VALIDATION
    return examples.replace(splits=splits)


def _validation_quotas(sizes: np.ndarray, fraction: float) -> np.ndarray:
    least, most = (sizes >= 2).astype(np.int64), np.maximum(sizes - 1, 0)
    # Half an image counts as one: Python's round() would go to the even number.
    total = int(fraction if fraction >= 1 else sizes.sum() * fraction + 0.5)
    if most.sum() == 0:
        raise UserError(
            f"no class has the two images that a split into training and validation takes "
            f"({sizes.sum()} images in {len(sizes)} classes); add images, or give --val_dir"
        )
    if fraction >= 1 and not least.sum() <= total <= most.sum():
        raise UserError(
            f"validation_fraction={total} of {sizes.sum()} images in {len(sizes)} classes; "
            f"allowed: {least.sum()} to {most.sum()} images, or a share between 0 and 1"
        )
    return apportion(sizes, total, least, most)


def _lowest(examples: Examples, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Indices of the `wanted[c]` examples of each class c with the lowest ranks, ascending."""
    order = np.lexsort((rank_keys(examples.keys, seed), examples.labels))
    labels = examples.labels[order]
    starts = np.searchsorted(labels, np.arange(len(wanted)))
    return np.sort(order[np.arange(len(order)) - starts[labels] < wanted[labels]])


class _Unit(NamedTuple):
    """What stays together: a group, or an example without one."""

    rank: int
    name: str
    members: list[int]
    classes: dict[int, int]  # label -> number of members

    def gain(self, shortage: np.ndarray) -> int:
        """By how much taking this unit brings the classes nearer to their quotas; > 0 is nearer."""
        return sum(
            abs(int(shortage[label])) - abs(int(shortage[label]) - count)
            for label, count in self.classes.items()
        )


def _units(examples: Examples, seed: int) -> list[_Unit]:
    """In the order of their ranks. A group's rank is that of its name."""
    # The tag keeps a group's name apart from a key of the same text.
    names = [
        f"group:{group}" if group else key
        for group, key in zip(examples.groups, examples.keys, strict=True)
    ]
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    unique = np.array(list(members), dtype=object)
    units = [
        _Unit(int(rank), name, members[name], Counter(examples.labels[members[name]].tolist()))
        for rank, name in zip(rank_keys(unique, seed), unique, strict=True)
    ]
    return sorted(units, key=lambda unit: unit[:2])


def _whole_groups(examples: Examples, wanted: np.ndarray, seed: int) -> np.ndarray:
    """Indices of the units that meet the quotas as nearly as going through them three times can.

    First what fits without excess, then what brings the sizes nearer although it exceeds, then one
    unit for each class that still has none. No unit is taken that would empty a training class.
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
    """At most `count` examples of each part, evenly over its classes, at least one of each.

    Raises:
      UserError: `count` is smaller than the number of classes.
    """
    if count is None:
        return examples
    parts = []
    for part in (examples.subset(split) for split in SPLITS):
        sizes = np.array(part.class_counts(), dtype=np.int64)
        present = (sizes > 0).astype(np.int64)
        if count < present.sum():
            raise UserError(
                f"limit_examples={count} with {present.sum()} classes; allowed: "
                f"{present.sum()} or more, so that each class keeps an image"
            )
        # Of another seed: those that validate are the lowest ranks already.
        parts.append(part.take(_lowest(part, apportion(sizes, count, present, sizes), ~seed)))
    return join(parts)


def add_validation_split(examples: Examples, spec: DataSpec) -> Examples:
    """The examples with a validation part, whether they came with one or not.

    What a person has arranged in files is checked first, and where the validation part is taken
    from train, files with the same content stay together. Of record files that is known.

    Raises:
      UserError: what `checks.check` finds, or more validation examples asked for than there are.
    """
    files = bool(np.all(examples.lengths == WHOLE_FILE))
    if files:
        checks.validate_examples(examples)
    if np.any(examples.splits == VALIDATION):
        return examples
    tied = examples.replace(groups=_tie_copies(examples)) if files else examples
    return take_validation_split(tied, spec.validation_fraction, spec.split_seed)


def _tie_copies(examples: Examples) -> np.ndarray:
    """Groups, in which copies of one file that are in no group make one."""
    first = first_of_same_content(examples.paths)
    groups = examples.groups.copy()
    copies = np.flatnonzero(first != np.arange(len(first)))
    for index in np.union1d(copies, first[copies]):
        groups[index] = groups[index] or f"copies of {examples.keys[first[index]]}"
    return groups
