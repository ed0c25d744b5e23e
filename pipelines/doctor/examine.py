"""Looks at every image of a data set, and says what a person should know before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.core.text import printable
from pipelines.decode import decode, formats, headers
from pipelines.doctor import census, copies, likeness, places, unusual
from pipelines.doctor.kinds import KINDS, Entry, Finding
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.scan import Broken, ImageFacts
from pipelines.pixel_cache.stamps import MISSING
from pipelines.sources import sources, splits
from pipelines.sources.examples import VALIDATION, Examples


@dataclasses.dataclass(frozen=True)
class ExaminedDataset:
    """What came of it.

    sound: bool [N], the examples that can be decoded.
    pairs: int64 [n, 2], examples that look the same although their files differ.
    fingerprints: int64 [N], of the encoded bytes; -1 where the example is broken.
    arranged: whether the data came with a validation part of its own.
    """

    examples: Examples
    arranged: bool
    sound: np.ndarray
    fingerprints: np.ndarray
    pairs: np.ndarray
    findings: tuple[Finding, ...]


def listed(spec: DataSpec) -> tuple[Examples, bool, list[Finding]]:
    """The examples as training would divide them, or as they lie there where it would refuse them.

    Returns:
      with them whether they came with a validation part, and what training would say.

    Raises:
      UserError: there is nothing to look at.
    """
    examples = sources.listed(spec)
    arranged = VALIDATION in examples.splits
    groups = dict(zip(examples.keys, examples.groups, strict=True))
    try:
        divided = sources.divided(examples, spec)
        # Without those that tie copies together for a split: copies are told apart here.
        own = np.array([groups[key] for key in divided.keys], dtype=object)
        return divided.replace(groups=own), arranged, []
    except UserError as error:
        if not len(examples):
            raise
        entry = Entry((printable(spec.location),), printable(str(error)))
        least = spec.limit_examples and max(spec.limit_examples, len(examples.classes))
        limited = splits.limit(examples, least, spec.split_seed)
        return limited, arranged, [Finding("refused", (entry,))]


def examine(spec: DataSpec, threads: int, progress: Callable[[int, int], None]) -> ExaminedDataset:
    """Reads, decodes and compares every image once; writes and removes nothing.

    Args:
      threads: how many images are decoded at a time.
      progress: called now and then with the number of sound images so far, and that of all.

    Raises:
      UserError: see `listed`.
    """
    examples, arranged, refused = listed(spec)
    notes = _Notes(examples)

    def keep(numbers: np.ndarray, facts: ImageFacts) -> None:
        notes.keep(numbers, facts)
        progress(notes.count, len(examples))

    broken = scan.look(examples, _small, threads, keep=keep)
    joined, pairs = notes.same_files(), notes.alike()
    found = [
        *refused,
        *_broken(broken, examples),
        *places.findings(spec, examples),
        *notes.findings(),
        *copies.findings(examples, joined, "copies"),
        *copies.findings(examples, copies.groups(len(examples), pairs), "likeness"),
        *census.balance(examples),
    ]
    found.sort(key=lambda finding: list(KINDS).index(finding.name))
    sound = notes.fingerprints >= 0
    return ExaminedDataset(examples, arranged, sound, notes.fingerprints, pairs, tuple(found))


def _small(contents: tf.Tensor) -> tf.Tensor:
    return decode.decode(contents, likeness.SIDE, likeness.SIDE)


class _Notes:
    """What is written down while the images go by; `keep` takes them as they come."""

    def __init__(self, examples: Examples) -> None:
        self.examples, self.count = examples, 0
        self.fingerprints = np.full(len(examples), -1)
        self.details = np.zeros((len(examples), likeness.DETAIL, likeness.DETAIL), np.uint8)
        self.headers = np.zeros(len(examples), headers.COLUMN)
        self.orientations = np.zeros(len(examples), np.uint8)
        self.flat = np.zeros(len(examples), dtype=bool)

    def keep(self, numbers: np.ndarray, facts: ImageFacts) -> None:
        self.count += len(numbers)
        self.fingerprints[numbers] = facts.fingerprints
        self.details[numbers] = likeness.details(facts.pixels)
        self.headers[numbers] = headers.of(self.examples, numbers)
        self.orientations[numbers] = facts.orientations
        self.flat[numbers[census.of_one_colour(facts.pixels)]] = True

    def findings(self) -> list[Finding]:
        return [
            *unusual.findings(self.examples, self.headers, self.orientations),
            *census.one_colour(self.examples, self.flat),
        ]

    def same_files(self) -> list[np.ndarray]:
        return copies.of_same_bytes(self.fingerprints)

    def alike(self) -> np.ndarray:
        """int64 [n, 2]: pairs of examples that look the same, copies and flat ones left out."""
        _, firsts = np.unique(self.fingerprints, return_index=True)
        firsts = firsts[(self.fingerprints[firsts] >= 0) & ~self.flat[firsts]]
        return firsts[likeness.alike(self.details[firsts])]


def _broken(broken: list[Broken], examples: Examples) -> Iterator[Finding]:
    cases: dict[str, list[Entry]] = {}
    for one in broken:
        kind, detail = _kind_of(one), one.reason
        if kind == "no_image" and (found := headers.header(examples, one.index)):
            detail = f"{found.format}, which is not read here"
        cases.setdefault(kind, []).append(Entry((one.path,), detail, (one.index,)))
    for kind, entries in cases.items():
        yield Finding(kind, tuple(entries))


def _kind_of(one: Broken) -> str:
    if not one.lasting:
        return "missing" if one.reason == MISSING else "unreadable"
    reasons = {
        "empty file": "empty",
        formats.NOT_A_IMAGE: "no_image",
        formats.TOO_LARGE: "bomb",
    }
    return reasons.get(one.reason, "damaged")
