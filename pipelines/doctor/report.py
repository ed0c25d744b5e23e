"""What the doctor found, for people to read and for programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from engine.core.text import counted, printable
from pipelines.doctor.examine import ExaminedDataset
from pipelines.doctor.kinds import LEVELS, Entry, Finding
from pipelines.sources.examples import SPLITS, Examples

SHOWN = 3  # cases of each kind in the terminal


def counts(examples: Examples) -> dict[str, dict[str, int]]:
    """part -> class -> number of examples."""
    return {
        split: dict(zip(examples.classes, part.class_counts(), strict=True))
        for split in SPLITS
        if len(part := examples.part(split))
    }


def lines(examined: ExaminedDataset, seconds: float) -> Iterator[str]:
    """The report for a terminal."""
    examples = examined.examples
    speed, root = len(examples) / seconds, common(examples)
    yield (
        f"{counted(len(examples), 'image', 'images')} in {printable(root)} looked at in "
        f"{seconds:.1f} s, {speed:,.0f} a second"
    )
    for split, classes in counts(examples).items():
        of_classes = ", ".join(f"{count:,} {name}" for name, count in classes.items())
        yield f"{split}: {of_classes if len(classes) <= 10 else f'{len(classes)} classes'}"
    for finding in examined.findings:
        yield ""
        yield f"{finding.kind.level}: {finding.counted}; {finding.kind.advice}"
        for entry in finding.entries[:SHOWN]:
            yield f"  {describe(entry, root)}"
        if len(finding.entries) > SHOWN:
            yield f"  and {len(finding.entries) - SHOWN:,} more"
    yield ""
    yield summary(examined.findings)


def summary(findings: tuple[Finding, ...]) -> str:
    """`2 errors, 1 warning, 0 notes`, in kinds."""
    each = [(level, sum(f.kind.level == level for f in findings)) for level in LEVELS]
    return ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in each)


def common(examples: Examples) -> str:
    """The folder that all images lie in, which need not be said of each."""
    folders = {os.path.dirname(path) for path in examples.paths}
    try:
        return os.path.join(os.path.commonpath(folders), "")
    except ValueError:  # some relative, some not
        return ""


def describe(entry: Entry, root: str) -> str:
    places = ", ".join(place.removeprefix(root) for place in entry.places[:4])
    more = f" and {len(entry.places) - 4} more" if len(entry.places) > 4 else ""
    return f"{places}{more}" + (f": {entry.detail}" if entry.detail else "")


def as_json(examined: ExaminedDataset, seconds: float) -> dict[str, Any]:
    """All of it: every case of every kind."""
    return {
        "images": len(examined.examples),
        "sound": int(examined.sound.sum()),
        "seconds": round(seconds, 3),
        "classes": counts(examined.examples),
        "findings": [
            {
                "kind": finding.name,
                "level": finding.kind.level,
                "title": finding.kind.title,
                "advice": finding.kind.advice,
                "cases": [{"places": e.places, "detail": e.detail} for e in finding.entries],
            }
            for finding in examined.findings
        ],
    }
