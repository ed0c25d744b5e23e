"""Examines every image of a data set before training."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.findings import Case, DatasetExamination, Finding
from engine.core.recipe import DataSpec
from engine.core.text import printable
from pipelines.decode import decode, formats, headers
from pipelines.doctor import duplicates, kinds, near_duplicates, quick_check
from pipelines.doctor.header_checks import check_headers
from pipelines.doctor.path_checks import check_paths
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.index import MISSING
from pipelines.pixel_cache.scan import BrokenImage, ImageFacts
from pipelines.sources import sources, splits
from pipelines.sources.examples import SPLITS, VALIDATION, Examples, read

THUMBNAIL_SIDE = 112  # pixels


@dataclasses.dataclass(frozen=True)
class ExaminedDataset:
    """The examples and everything known of them.

    Attributes:
      has_validation: whether the data came with a validation split of its own.
      readable: bool [N], the examples that can be decoded.
      fingerprints: int64 [N], of the encoded bytes; -1 where the example is broken.
      pairs: int64 [n, 2], near-duplicates in different files.
    """

    examples: Examples
    has_validation: bool
    readable: np.ndarray
    fingerprints: np.ndarray
    pairs: np.ndarray
    findings: tuple[Finding, ...]
    seconds: float

    def summary(self) -> DatasetExamination:
        examples = self.examples
        counts = {
            split: dict(zip(examples.classes, of_split.class_counts(), strict=True))
            for split in SPLITS
            if len(of_split := examples.subset(split))
        }
        readable = int(self.readable.sum())
        return DatasetExamination(
            _root(examples), len(examples), readable, counts, self.findings, self.seconds
        )

    def thumbnail(self, index: int) -> bytes | None:
        """Returns a small JPEG of an example, or None where it can't be read."""
        if not self.readable[index]:
            return None
        try:
            contents = read(self.examples, index)
            pixels = decode.decode(contents, THUMBNAIL_SIDE, THUMBNAIL_SIDE, "pad")
        except (OSError, tf.errors.OpError):  # it was readable a moment ago
            return None
        return tf.io.encode_jpeg(pixels, quality=80).numpy()


def _root(examples: Examples) -> str:
    folders = {os.path.dirname(path) for path in examples.paths}
    try:
        return printable(os.path.join(os.path.commonpath(folders), ""))
    except ValueError:  # some relative, some not
        return ""


def list_examples(spec: DataSpec) -> tuple[Examples, bool, list[Finding]]:
    """Lists the examples, split as for training where training accepts them.

    Returns:
      the examples, whether they came with a validation split, and the refusal of training, if any.

    Raises:
      UserError: there is nothing to examine.
    """
    examples = sources.list_examples(spec)
    has_validation = VALIDATION in examples.splits
    groups = dict(zip(examples.keys, examples.groups, strict=True))
    try:
        divided = sources.complete_splits(examples, spec)
        # Without the groups that tie duplicates together for a split: they are reported here.
        own = np.array([groups[key] for key in divided.keys], dtype=object)
        return divided.replace(groups=own), has_validation, []
    except UserError as error:
        if not len(examples):
            raise
        case = Case((printable(spec.location),), printable(str(error)))
        limit = spec.limit_examples and max(spec.limit_examples, len(examples.classes))
        limited = splits.limit_examples(examples, limit, spec.split_seed)
        return limited, has_validation, kinds.collect({"refused": [case]})


def examine(spec: DataSpec, threads: int, progress: Callable[[int, int], None]) -> ExaminedDataset:
    """Reads, decodes and compares every image once; writes and removes nothing.

    Args:
      threads: how many images are decoded at a time.
      progress: called now and then with the number of readable images so far, and that of all.

    Raises:
      UserError: see `list_examples`.
    """
    started = time.perf_counter()
    examples, has_validation, refused = list_examples(spec)
    facts = _ExampleFacts(examples)

    def keep(indices: np.ndarray, batch: ImageFacts) -> None:
        facts.keep(indices, batch)
        progress(facts.count, len(examples))

    broken = scan.scan_images(examples, _decode_small, threads, collect=keep)
    same_files = duplicates.groups_of_equal(facts.fingerprints)
    pairs = facts.near_duplicates()
    alike = duplicates.connected_groups(len(examples), pairs)
    findings = [
        *refused,
        *_broken_findings(broken, examples),
        *check_paths(spec, examples),
        *check_headers(examples, facts.headers, facts.orientations),
        *quick_check.single_colour_findings(examples, facts.flat),
        *duplicates.duplicate_findings(examples, same_files, "duplicates"),
        *duplicates.duplicate_findings(examples, alike, "near_duplicates"),
        *quick_check.find_imbalance(examples),
    ]
    return ExaminedDataset(
        examples,
        has_validation,
        facts.fingerprints >= 0,
        facts.fingerprints,
        pairs,
        tuple(kinds.by_severity(findings)),
        time.perf_counter() - started,
    )


def _decode_small(contents: tf.Tensor) -> tf.Tensor:
    return decode.decode(contents, near_duplicates.SIDE, near_duplicates.SIDE)


class _ExampleFacts:
    """What the scan learns of each example; `keep` takes them in any order."""

    def __init__(self, examples: Examples) -> None:
        self.examples, self.count = examples, 0
        self.fingerprints = np.full(len(examples), -1)
        detail = near_duplicates.DETAIL
        self.details = np.zeros((len(examples), detail, detail), np.uint8)
        self.headers = np.zeros(len(examples), headers.COLUMN)
        self.orientations = np.zeros(len(examples), np.uint8)
        self.flat = np.zeros(len(examples), dtype=bool)

    def keep(self, indices: np.ndarray, facts: ImageFacts) -> None:
        self.count += len(indices)
        self.fingerprints[indices] = facts.fingerprints
        self.details[indices] = near_duplicates.details(facts.pixels)
        self.headers[indices] = headers.read_headers(self.examples, indices)
        self.orientations[indices] = facts.orientations
        self.flat[indices[quick_check.single_colour_images(facts.pixels)]] = True

    def near_duplicates(self) -> np.ndarray:
        """Returns int64 [n, 2], without exact duplicates and images of one colour."""
        _, firsts = np.unique(self.fingerprints, return_index=True)
        firsts = firsts[(self.fingerprints[firsts] >= 0) & ~self.flat[firsts]]
        return firsts[near_duplicates.find_near_duplicates(self.details[firsts])]


def _broken_findings(broken: list[BrokenImage], examples: Examples) -> list[Finding]:
    cases: dict[str, list[Case]] = defaultdict(list)
    for one in broken:
        kind, detail = _broken_kind(one), one.reason
        if kind == "no_image" and (header := headers.read_header(examples, one.index)):
            detail = f"{header.format}, which is not supported"
        cases[kind].append(Case((one.path,), detail, (one.index,)))
    return kinds.collect(cases)


def _broken_kind(one: BrokenImage) -> str:
    if not one.permanent:
        return "missing" if one.reason == MISSING else "unreadable"
    reasons = {
        "empty file": "empty",
        formats.NOT_AN_IMAGE: "no_image",
        formats.TOO_LARGE: "bomb",
    }
    return reasons.get(one.reason, "damaged")
