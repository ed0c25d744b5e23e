"""The examination of a data set, as an HTML page, as lines for a terminal and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from engine.core.findings import ERROR, LEVELS, Case, DatasetExamination, Finding
from engine.core.text import counted
from engine.report.document import Section, document
from engine.report.markup import Markup, image, join, paragraph, table, tag

TITLE = "The images before training"
PAGE_CASES, LINE_CASES = 60, 3  # shown of each kind
_PAGE_IMAGES, _CASE_PLACES = 4, 4  # shown of each case
_LINE_CLASSES = 10

Thumbnail = Callable[[int], bytes | None]


def page(result: DatasetExamination, thumbnail: Thumbnail) -> str:
    """Returns the whole page.

    Args:
      thumbnail: index of an example -> JPEG, or None where there is none to show.
    """
    errors, others = (
        [_section(finding, result.root, thumbnail) for finding in findings]
        for findings in _errors_first(result)
    )
    counts = summary(result.findings) if result.findings else "no problems"
    return document(
        TITLE,
        ("Data set report", TITLE, f"{_examined(result)}: {counts}."),
        [*errors, _classes(result), *others],
    )


def _errors_first(result: DatasetExamination) -> tuple[list[Finding], list[Finding]]:
    errors = [finding for finding in result.findings if finding.kind.level == ERROR]
    return errors, [finding for finding in result.findings if finding.kind.level != ERROR]


def _classes(result: DatasetExamination) -> Section:
    splits = result.counts
    names = dict.fromkeys(name for of_split in splits.values() for name in of_split)
    rows = [[name, *(f"{of[name]:,}" for of in splits.values())] for name in names]
    numbers = table("Images of each class and split", ["class", *splits], rows)
    return Section("classes", "Classes", "classes", numbers)


def _section(finding: Finding, root: str, thumbnail: Thumbnail) -> Section:
    kind, cases = finding.kind, finding.cases
    body = [
        paragraph(f"{finding.counted}. What to do: {kind.advice}."),
        tag("ul", *(_figure(case, root, thumbnail) for case in cases[:PAGE_CASES]), class_="wall"),
    ]
    if len(cases) > PAGE_CASES:
        body.append(paragraph(f"And {len(cases) - PAGE_CASES:,} more, listed in report.json."))
    short = f"{kind.title} ({len(cases):,})"
    return Section(kind.name, f"{kind.level}: {kind.title}", short, join(body))


def _figure(case: Case, root: str, thumbnail: Thumbnail) -> Markup:
    shown = [
        image(jpeg, place)
        for place, index in zip(case.places, case.examples[:_PAGE_IMAGES], strict=False)
        if (jpeg := thumbnail(index))
    ]
    images = [tag("div", *shown, class_="images")] if shown else []
    return tag("li", tag("figure", *images, tag("figcaption", _describe(case, root))))


def lines(result: DatasetExamination) -> Iterator[str]:
    """Yields the report for a terminal."""
    yield f"{_examined(result)}, {result.images / result.seconds:,.0f} a second"
    errors, others = _errors_first(result)
    yield from _finding_lines(errors, result.root)
    if errors:
        yield ""
    for split, classes in result.counts.items():
        each = ", ".join(f"{count:,} {name}" for name, count in classes.items())
        present = counted(sum(map(bool, classes.values())), "class", "classes")
        yield f"{split}: {each if len(classes) <= _LINE_CLASSES else present}"
    yield from _finding_lines(others, result.root)
    yield ""
    yield summary(result.findings)


def _finding_lines(findings: list[Finding], root: str) -> Iterator[str]:
    for finding in findings:
        yield ""
        yield f"{finding.kind.level}: {finding.counted}; {finding.kind.advice}"
        yield from (f"  {_describe(case, root)}" for case in finding.cases[:LINE_CASES])
        if len(finding.cases) > LINE_CASES:
            yield f"  and {len(finding.cases) - LINE_CASES:,} more"


def _examined(result: DatasetExamination) -> str:
    images = counted(result.images, "image", "images")
    return f"{images} in {result.root} examined in {result.seconds:.1f} s"


def summary(findings: tuple[Finding, ...]) -> str:
    """`2 errors, 1 warning, 0 notes`, counted in kinds."""
    levels = [finding.kind.level for finding in findings]
    return ", ".join(counted(levels.count(level), level, f"{level}s") for level in LEVELS)


def _describe(case: Case, root: str) -> str:
    places = ", ".join(place.removeprefix(root) for place in case.places[:_CASE_PLACES])
    hidden = len(case.places) - _CASE_PLACES
    more = f" and {hidden} more" if hidden > 0 else ""
    return f"{places}{more}" + (f": {case.detail}" if case.detail else "")


def to_json(result: DatasetExamination) -> dict[str, Any]:
    """Returns every case of every kind."""
    return {
        "images": result.images,
        "readable": result.readable,
        "seconds": round(result.seconds, 3),
        "classes": result.counts,
        "findings": [
            {
                "kind": kind.name,
                "level": kind.level,
                "title": kind.title,
                "advice": kind.advice,
                "cases": [dataclasses.asdict(case) for case in cases],
            }
            for kind, cases in ((finding.kind, finding.cases) for finding in result.findings)
        ],
    }
