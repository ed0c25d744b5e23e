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
from pipelines.decode import bounds, decode, headers, unsupported
from pipelines.decode.bounds import Decoded
from pipelines.doctor import duplicates, kinds, near_duplicates, quick_check
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.index import FACTS, MISSING
from pipelines.pixel_cache.scan import BrokenImage, ImageFacts
from pipelines.sources import sources, splits
from pipelines.sources.examples import SPLITS, VALIDATION, Examples, read
from pipelines.sources.validate import missing_classes

THUMBNAIL_SIDE = 112  # pixels
_KINDS_OF_REASONS = {
    unsupported.EMPTY: "empty",
    **dict.fromkeys(unsupported.REASONS, "no_image"),
    bounds.TOO_LARGE: "bomb",
    MISSING: "missing",
}


@dataclasses.dataclass(frozen=True)
class ExaminedDataset:
    """The examples and everything known of them.

    Attributes:
      has_validation: whether the data came with a validation split of its own.
      fingerprints: int64 [N], of the encoded bytes; -1 where the example can't be decoded.
      pairs: int64 [n, 2], near-duplicates in different files.
      summary: the findings, and numbers of images.
    """

    examples: Examples
    has_validation: bool
    fingerprints: np.ndarray
    pairs: np.ndarray
    summary: DatasetExamination

    def thumbnail(self, index: int) -> bytes | None:
        """Returns a small JPEG of an example, or None where it can't be read."""
        if self.fingerprints[index] < 0:
            return None
        try:
            contents = read(self.examples, index)
            pixels = decode.decode(contents, THUMBNAIL_SIDE, THUMBNAIL_SIDE, "pad")
        except (OSError, tf.errors.OpError):  # it was readable a moment ago
            return None
        return tf.io.encode_jpeg(pixels, quality=80).numpy()


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


class _ScannedImages:
    """What decoding showed of each example.

    Attributes:
      facts: FACTS [N]; the fingerprint is -1 where it can't be decoded.
      details: uint8 [N, DETAIL, DETAIL], see `near_duplicates.details`.
      flat: bool [N], whether it has one colour.
      brightest: uint8 [N], its highest level; 255 where it can't be decoded.
    """

    def __init__(self, examples: Examples, progress: Callable[[int, int], None]) -> None:
        count, side = len(examples), near_duplicates.DETAIL
        self.examples, self.progress, self.readable = examples, progress, 0
        self.facts, self.flat = np.zeros(count, FACTS), np.zeros(count, dtype=bool)
        self.facts["fingerprint"] = -1
        self.details = np.zeros((count, side, side), np.uint8)
        self.brightest = np.full(count, 255, np.uint8)

    def collect(self, indices: np.ndarray, batch: ImageFacts) -> None:
        self.readable += len(indices)
        self.facts["fingerprint"][indices] = batch.fingerprints
        self.facts["orientation"][indices] = batch.orientations
        self.facts["header"][indices] = headers.read_headers(self.examples, indices)
        self.details[indices] = near_duplicates.details(batch.pixels)
        self.flat[indices[quick_check.single_colour_images(batch.pixels)]] = True
        self.brightest[indices] = quick_check.brightest_levels(batch.pixels)
        self.progress(self.readable, len(self.examples))

    def near_duplicates(self) -> np.ndarray:
        """Returns pairs, int64 [n, 2], without exact duplicates and images of one colour."""
        fingerprints = self.facts["fingerprint"]
        firsts = np.unique(fingerprints, return_index=True)[1]
        firsts = firsts[(fingerprints[firsts] >= 0) & ~self.flat[firsts]]
        return firsts[near_duplicates.find_near_duplicates(self.details[firsts])]

    def findings(self) -> list[Finding]:
        facts = self.facts
        return [
            *quick_check.check_headers(self.examples, facts["header"], facts["orientation"]),
            *quick_check.single_colour_findings(self.examples, self.flat),
            *quick_check.shallow_findings(self.examples, self.brightest),
        ]


def examine(spec: DataSpec, threads: int, progress: Callable[[int, int], None]) -> ExaminedDataset:
    """Reads, decodes and compares every image once; writes and removes nothing.

    Args:
      threads: how many images are decoded at a time.
      progress: called now and then with the number of readable images so far, and that of all.

    Raises:
      UserError: see `list_examples`.
    """
    started = time.perf_counter()
    examples, has_validation, findings = list_examples(spec)
    scanned = _ScannedImages(examples, progress)
    broken = scan.scan_images(examples, _decode_small, threads, scanned.collect)
    fingerprints, pairs = scanned.facts["fingerprint"], scanned.near_duplicates()
    findings += [
        *_broken_findings(broken, examples),
        *quick_check.check_paths(spec, examples),
        *quick_check.passed_over_findings(examples),
        *scanned.findings(),
        *_duplicate_findings(examples, fingerprints, pairs),
        *quick_check.find_imbalance(examples),
        *_missing_class_findings(examples),
    ]
    summary = DatasetExamination(
        _root(examples),
        len(examples),
        scanned.readable,
        _split_counts(examples),
        tuple(kinds.by_severity(findings)),
        time.perf_counter() - started,
    )
    return ExaminedDataset(examples, has_validation, fingerprints, pairs, summary)


def _duplicate_findings(
    examples: Examples, fingerprints: np.ndarray, pairs: np.ndarray
) -> list[Finding]:
    same_files = duplicates.groups_of_equal(fingerprints)
    alike = duplicates.connected_groups(len(examples), pairs)
    return [
        *duplicates.duplicate_findings(examples, same_files, "duplicates"),
        *duplicates.duplicate_findings(examples, alike, "near_duplicates"),
    ]


def _missing_class_findings(examples: Examples) -> list[Finding]:
    missing = [Case((name,), f"not in {part}") for part, name in missing_classes(examples)]
    return kinds.collect({"missing_class": missing})


def _split_counts(examples: Examples) -> dict[str, dict[str, int]]:
    return {
        split: dict(zip(examples.classes, of_split.class_counts(), strict=True))
        for split in SPLITS
        if len(of_split := examples.subset(split))
    }


def _decode_small(contents: tf.Tensor) -> Decoded:
    return decode.decode_oriented(contents, near_duplicates.SIDE, near_duplicates.SIDE)


def _root(examples: Examples) -> str:
    folders = {os.path.dirname(path) for path in examples.paths}
    try:
        return printable(os.path.join(os.path.commonpath(folders), ""))
    except ValueError:  # some relative, some not
        return ""


def _broken_findings(broken: list[BrokenImage], examples: Examples) -> list[Finding]:
    cases: dict[str, list[Case]] = defaultdict(list)
    for one in broken:
        other = "damaged" if one.permanent else "unreadable"
        kind, detail = _KINDS_OF_REASONS.get(one.reason, other), one.reason
        cases[kind].append(Case((one.path,), detail, (one.index,)))
    return kinds.collect(cases)
