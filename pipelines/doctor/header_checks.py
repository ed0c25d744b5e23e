"""Checks of an image's header and name: size, shape, frames, orientation, format."""

from __future__ import annotations

import numpy as np

from engine.core.findings import Case, Finding
from pipelines.decode import headers
from pipelines.doctor import kinds
from pipelines.sources.examples import Examples

HUGE_PIXELS = 50_000_000
TINY_SIDE = 32  # pixels
NARROW = 5.0  # times as long as wide


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
