"""Options as fields of dataclasses: each field has its help text and the values that it allows.

`engine.cli` makes flags from them; `check_options` checks the same for callers from Python.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable
from typing import Any

from engine.core.errors import choose, require

KEY = "option"  # of a field's metadata
REQUIRED: Any = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field means, and which values it allows.

    Attributes:
      help: for `--help`; may end in `; default: …` where the default is None.
      choices: the allowed words; empty for any.
      minimum, maximum, above, below: of a number; the last two are not allowed themselves.
      word: allowed in place of a number.
    """

    help: str = ""
    choices: Iterable[str] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    word: str | None = None

    def allows(self, number: float) -> bool:
        return self.minimum <= number <= self.maximum and self.above < number < self.below

    @property
    def limits(self) -> str:
        """`0 or more, below 1`, `0 to 65535`, `above 0`; nothing where any number is allowed."""
        parts = [f"above {self.above}"] if self.above > -math.inf else []
        if self.minimum > -math.inf:
            bounded = self.maximum < math.inf
            parts.append(
                f"{self.minimum} to {self.maximum}" if bounded else f"{self.minimum} or more"
            )
        elif self.maximum < math.inf:
            parts.append(f"up to {self.maximum}")
        if self.below < math.inf:
            parts.append(f"below {self.below}")
        return ", ".join(parts)

    def describe(self, kind: type) -> str:
        """`a whole number, 2 or more, or flip`; kind: int or float."""
        parts = [{int: "a whole number", float: "a number"}[kind], self.limits]
        parts += [f"or {self.word}"] if self.word else []
        return ", ".join(filter(None, parts))


def option(default: Any, help: str = "", **limits: Any) -> Any:
    """Returns a field of a dataclass.

    Args:
      default: REQUIRED for none.
      help, limits: see `Option`.
    """
    return dataclasses.field(default=default, metadata={KEY: Option(help, **limits)})


def declared_options(kind: type) -> dict[str, Option]:
    """Returns the options among the fields of a dataclass, by name, in their order."""
    return {
        field.name: field.metadata[KEY]
        for field in dataclasses.fields(kind)
        if KEY in field.metadata
    }


def check_options(options: Any, where: str = "") -> None:
    """Checks the values of all options of a dataclass.

    Raises:
      UserError: a value is not allowed; the message begins with `where`.
    """
    for field in dataclasses.fields(options):
        allowed, value = field.metadata.get(KEY), getattr(options, field.name)
        if allowed is None or (value is None and field.default is None):
            continue
        what = f"{where}{field.name}"
        require(value is not None, f"{what}=None; allowed: a value; give one")
        if allowed.choices:
            choose(str(value), dict.fromkeys(allowed.choices), what)
        elif allowed.limits and not (allowed.word and value == allowed.word):
            kind = float if "float" in str(field.type) else int
            fits = isinstance(value, numbers.Real if kind is float else numbers.Integral)
            require(
                fits and not isinstance(value, bool) and allowed.allows(value),
                f"{what}={value!r}; allowed: {allowed.describe(kind)}",
            )
