"""What can be said of many images at little cost, in a quick form before every run too."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.core.recipe import DataSpec
from pipelines.decode import headers
from pipelines.doctor import copies, places, unusual
from pipelines.doctor.kinds import KINDS, NOTE, WARNING, Entry, Finding
from pipelines.pixel_cache.store import Pixels
from pipelines.sources.examples import Examples

LEVELS_OF_ONE_COLOUR = 3  # of 255: what saving as JPEG makes of a single colour
IMBALANCE = 10.0  # times as many images
SHOWN_CLASSES = 10
_PROBES = 8  # places along each side that are looked at before the whole


def in_short(spec: DataSpec, examples: Examples, pixels: Pixels | None) -> Iterator[str]:
    """A line for each kind of finding, and one for all notes, from what the first look has kept.

    Args:
      spec: of the data.
      examples: sound ones, with the `rows` of the pixels.
    """
    rows, orientations = _kept(examples, pixels)
    of_headers = unusual.findings(examples, rows, orientations)
    found = [*balance(examples), *places.findings(spec, examples), *of_headers]
    if pixels is not None:
        prints = pixels.fingerprints[examples.rows]
        found += copies.findings(examples, copies.of_same_bytes(prints), "copies")
        found += _colourless(examples, pixels)
    found.sort(key=lambda finding: list(KINDS).index(finding.name))
    yield from (_line(finding) for finding in found if finding.kind.level != NOTE)
    if notes := [f.counted for f in found if f.kind.level == NOTE]:
        yield f"note: {', '.join(notes)}; bin/doctor shows all"
    looked_at = np.count_nonzero(rows["format"])
    if of_headers and looked_at < len(examples):
        yield f"sizes and formats are those of {looked_at:,} of the {len(examples):,} images"


def _line(finding: Finding) -> str:
    first = finding.entries[0]
    detail = f": {first.detail}" if first.detail else ""
    # No error, whatever its level: the run goes on.
    return (
        f"{WARNING}: {finding.counted}, as {', '.join(first.places[:2])}"
        f"{detail}; {finding.kind.advice}; bin/doctor shows all"
    )


def _kept(examples: Examples, pixels: Pixels | None) -> tuple[np.ndarray, np.ndarray]:
    """headers.COLUMN [N] and orientations [N]; the former are read where no pixels are kept."""
    if pixels is not None:
        return pixels.headers[examples.rows], pixels.orientations[examples.rows]
    rows = np.zeros(len(examples), headers.COLUMN)
    looked_at = np.flatnonzero(headers.sample(len(examples)))
    rows[looked_at] = headers.of(examples, looked_at)
    return rows, np.zeros(len(examples), np.uint8)


def balance(examples: Examples) -> list[Finding]:
    """Whether some class has many times the training images of another."""
    counts = dict(zip(examples.classes, examples.part("train").class_counts(), strict=True))
    present = {name: count for name, count in counts.items() if count}
    if not present or max(present.values()) <= IMBALANCE * min(present.values()):
        return []
    ranked = sorted(present, key=lambda name: -present[name])
    shown = [*ranked[: SHOWN_CLASSES // 2], *ranked[SHOWN_CLASSES // 2 :][-SHOWN_CLASSES // 2 :]]
    entries = tuple(Entry((name,), f"{present[name]:,} to train on") for name in shown)
    return [Finding("imbalance", entries)]


def of_one_colour(images: np.ndarray) -> np.ndarray:
    """int64 [m]: which of uint8 [n, h, w, 3] are the same all over."""
    height, width = images.shape[1:3]
    likely = _flat(images[:, :: -(-height // _PROBES), :: -(-width // _PROBES)])
    return np.array([number for number in np.flatnonzero(likely) if _flat(images[[number]])], int)


def _flat(images: np.ndarray) -> np.ndarray:
    return (np.ptp(images, axis=(1, 2)) <= LEVELS_OF_ONE_COLOUR).all(axis=1)


def one_colour(examples: Examples, flat: np.ndarray) -> list[Finding]:
    """flat: bool [N], which of the examples are."""
    entries = tuple(
        Entry((examples.name(index),), examples=(index,)) for index in np.flatnonzero(flat).tolist()
    )
    return [Finding("one_colour", entries)] if entries else []


def _colourless(examples: Examples, pixels: Pixels) -> list[Finding]:
    """Those of one colour, where the pixels lie in memory."""
    if not pixels.in_memory:
        return []
    return one_colour(examples, np.isin(examples.rows, of_one_colour(pixels.rows)))
