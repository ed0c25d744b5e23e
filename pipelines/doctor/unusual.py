"""What the header and the name of an image have that is unusual."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.decode import headers
from pipelines.doctor.kinds import Entry, Finding
from pipelines.sources.examples import Examples

HUGE_PIXELS = 50_000_000
TINY_SIDE = 32  # pixels
NARROW = 5.0  # times as long as wide


def findings(examples: Examples, rows: np.ndarray, orientations: np.ndarray) -> list[Finding]:
    """What is extreme in size or shape, animated, turned, or named as another format.

    Args:
      rows: headers.COLUMN [N]; those of whom nothing is known are passed over.
      orientations: int [N], 1…8 as EXIF has it, 0 where nothing is known.
    """
    found = dict(_sizes(rows))
    found["several_frames"] = {
        number: f"{rows['frames'][number]} of them, {rows['format'][number].decode()}"
        for number in np.flatnonzero(rows["frames"] > 1).tolist()
    }
    found["wrong_name"] = dict(_misnamed(examples, rows))
    found["turned"] = {
        number: f"orientation {orientations[number]}"
        for number in np.flatnonzero(orientations > 1).tolist()
    }
    return [
        Finding(kind, tuple(Entry((examples.name(n),), cases[n], (n,)) for n in cases))
        for kind, cases in found.items()
        if cases
    ]


def _sizes(rows: np.ndarray) -> Iterator[tuple[str, dict[int, str]]]:
    """(kind, number -> detail) of what is extreme."""
    height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    shorter, longer = np.minimum(height, width), np.maximum(height, width)
    extreme = {
        "huge": height * width > HUGE_PIXELS,
        "tiny": shorter < TINY_SIDE,
        "narrow": longer > NARROW * shorter,
    }
    for kind, those in extreme.items():
        numbers = np.flatnonzero(those & (longer > 0)).tolist()
        yield kind, {number: f"{width[number]} x {height[number]} pixels" for number in numbers}


def _misnamed(examples: Examples, rows: np.ndarray) -> Iterator[tuple[int, str]]:
    for number in np.flatnonzero(rows["format"] != b"").tolist():
        form = rows["format"][number].decode()
        if wrong := headers.misnamed(examples.paths[number], form):
            yield number, wrong
