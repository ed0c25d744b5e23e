"""The checks that cost little: of headers, names, colours and classes; as lines before a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.core.findings import NOTE, WARNING, Case, Finding
from engine.core.recipe import DataSpec
from engine.core.text import program
from pipelines.decode import headers
from pipelines.doctor import duplicates, kinds
from pipelines.doctor.path_checks import check_paths
from pipelines.pixel_cache.cache import PixelCache
from pipelines.pixel_cache.index import FACTS
from pipelines.sources.examples import Examples

HUGE_PIXELS = 50_000_000
TINY_SIDE = 32  # pixels
NARROW = 5.0  # times as long as wide
ONE_COLOUR_LEVELS = 3  # of 255: the difference that saving as JPEG makes
IMBALANCE = 10.0  # times as many images
SHOWN_CLASSES = 10
_PROBES = 8  # pixels along each side that are tested before the whole image


def quick_check(spec: DataSpec, examples: Examples, pixels: PixelCache | None) -> Iterator[str]:
    """Yields a line for each kind of finding and one for all notes.

    Args:
      examples: readable ones, with the `rows` of the pixels.
      pixels: with the headers and fingerprints of the scan; None reads headers of a sample again.
    """
    if pixels is None:
        facts = np.zeros(len(examples), FACTS)
        sample = np.flatnonzero(headers.sample_mask(len(examples)))
        facts["header"][sample] = headers.read_headers(examples, sample)
    else:
        facts = pixels.index.facts[examples.rows]
    of_headers = check_headers(examples, facts["header"], facts["orientation"])
    findings = [*find_imbalance(examples), *check_paths(spec, examples), *of_headers]
    if pixels is not None:
        groups = duplicates.groups_of_equal(facts["fingerprint"])
        findings += duplicates.duplicate_findings(examples, groups, "duplicates")
        if pixels.memory is not None:
            flat = np.isin(examples.rows, single_colour_images(pixels.memory))
            findings += single_colour_findings(examples, flat)
    findings = kinds.by_severity(findings)
    for finding in findings:
        if finding.kind.level != NOTE:
            first = finding.cases[0]
            detail = f": {first.detail}" if first.detail else ""
            # Never an error, whatever its level: the run continues.
            yield (
                f"{WARNING}: {finding.counted}, such as {', '.join(first.places[:2])}"
                f"{detail}; {finding.kind.advice}; {program('doctor')} shows all"
            )
    if notes := [finding.counted for finding in findings if finding.kind.level == NOTE]:
        yield f"note: {'; '.join(notes)}; {program('doctor')} shows all"
    known = np.count_nonzero(facts["header"]["format"])
    if of_headers and known < len(examples):
        yield f"sizes and formats are those of {known:,} of the {len(examples):,} images"


def check_headers(examples: Examples, rows: np.ndarray, orientations: np.ndarray) -> list[Finding]:
    """Reports extreme sizes and shapes, several frames, EXIF rotation and wrong file names.

    Args:
      rows: headers.COLUMN [N]; empty ones are skipped.
      orientations: int [N], 1…8 as in EXIF, 0 where unknown.
    """
    height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    shorter, longer = np.minimum(height, width), np.maximum(height, width)
    known, formats = longer > 0, rows["format"].astype(str)

    def pixels(index: int) -> str:
        return f"{width[index]} x {height[index]} pixels"

    checks = {
        "huge": (known & (height * width > HUGE_PIXELS), pixels),
        "tiny": (known & (shorter < TINY_SIDE), pixels),
        "narrow": (known & (longer > NARROW * shorter), pixels),
        "several_frames": (
            rows["frames"] > 1,
            lambda i: f"{rows['frames'][i]} of them, {formats[i]}",
        ),
        "turned": (orientations > 1, lambda i: f"orientation {orientations[i]}"),
    }
    cases = {
        kind: [Case((examples.name(i),), detail(i), (i,)) for i in np.flatnonzero(those).tolist()]
        for kind, (those, detail) in checks.items()
    }
    cases["wrong_name"] = [
        Case((examples.name(i),), wrong, (i,))
        for i in np.flatnonzero(formats != "").tolist()
        if (wrong := headers.misnamed(examples.paths[i], formats[i]))
    ]
    return kinds.collect(cases)


def find_imbalance(examples: Examples) -> list[Finding]:
    """Reports a class that has many times the training images of another."""
    counts = dict(zip(examples.classes, examples.subset("train").class_counts(), strict=True))
    present = {name: count for name, count in counts.items() if count}
    if not present or max(present.values()) <= IMBALANCE * min(present.values()):
        return []
    ranked = sorted(present, key=lambda name: -present[name])
    shown = [*ranked[: SHOWN_CLASSES // 2], *ranked[SHOWN_CLASSES // 2 :][-SHOWN_CLASSES // 2 :]]
    return kinds.collect(
        {"imbalance": [Case((name,), f"{present[name]:,} to train on") for name in shown]}
    )


def single_colour_images(images: np.ndarray) -> np.ndarray:
    """Returns int64 [m]: which of uint8 [n, h, w, 3] have a single colour."""
    height, width = images.shape[1:3]
    likely = _flat(images[:, :: -(-height // _PROBES), :: -(-width // _PROBES)])
    return np.array([index for index in np.flatnonzero(likely) if _flat(images[[index]])], int)


def _flat(images: np.ndarray) -> np.ndarray:
    return (np.ptp(images, axis=(1, 2)) <= ONE_COLOUR_LEVELS).all(axis=1)


def single_colour_findings(examples: Examples, flat: np.ndarray) -> list[Finding]:
    """Reports the examples where `flat`, bool [N], is True."""
    indices = np.flatnonzero(flat).tolist()
    return kinds.collect(
        {"one_colour": [Case((examples.name(index),), examples=(index,)) for index in indices]}
    )
