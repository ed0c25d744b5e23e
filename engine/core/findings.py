"""What an examination of a data set reports: findings, each with its cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from engine.core.text import counted

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")


class FindingKind(NamedTuple):
    """A problem that images can have.

    Attributes:
      level: one of `LEVELS`.
      noun: what its cases are, in the singular; empty where cases are not counted.
      problem: what they have, so that it follows the noun or stands alone.
      advice: what to do next.
    """

    name: str
    level: str
    noun: str
    problem: str
    advice: str

    @property
    def title(self) -> str:
        return f"{self.noun}s {self.problem}" if self.noun else self.problem


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of a finding.

    Attributes:
      places: printable paths or names that it is about.
      examples: indices of the examples at these places; empty where they are no examples.
    """

    places: tuple[str, ...]
    detail: str = ""
    examples: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """All cases of one kind, at least one."""

    kind: FindingKind
    cases: tuple[Case, ...]

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def counted(self) -> str:
        """`1 file that is empty`, `3 files that are empty`."""
        noun, problem = self.kind.noun, self.kind.problem
        if not noun:
            return problem
        return counted(len(self.cases), f"{noun} {problem}", f"{noun}s {problem}")


@dataclasses.dataclass(frozen=True)
class DatasetExamination:
    """The result of examining a data set.

    Attributes:
      root: the folder that contains all images, which `Case.places` begin with; may be empty.
      counts: split -> class -> number of images.
      seconds: how long it took.
    """

    root: str
    images: int
    readable: int
    counts: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    seconds: float
