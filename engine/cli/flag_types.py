"""Types of flags: which values are allowed, how they are converted, what `--help` says."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from typing import Any

from absl import flags

from engine.core.errors import nearest

AUTO = "auto"
MAX_BYTES = 1e18


class Parser(flags.ArgumentParser):
    """Converts the text of a flag.

    allowed: in words, for help and errors.
    """

    syntactic_help = ""
    allowed = ""

    def convert(self, argument: Any) -> Any:
        """The value, or None where the argument is not allowed."""
        raise NotImplementedError

    def parse(self, argument: Any) -> Any:
        value = self.convert(argument)
        if value is None:
            raise ValueError(f"{str(argument)!r}; allowed: {self.allowed}")
        return value


class Choice(Parser):
    """Takes one of the allowed names; the error for another names the nearest."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self.allowed = ", ".join(self.names)

    def convert(self, argument: str) -> str:
        if argument in self.names:
            return argument
        hint = nearest(argument, self.names)
        raise ValueError(f"{argument!r} does not exist{hint}; allowed: {self.allowed}")


class Path(Parser):
    """A path; `~` is the home folder, which shells leave alone behind `--flag=`."""

    def convert(self, argument: str) -> str:
        return os.path.expanduser(argument)


class Size(Parser):
    """(height, width), from `224` or `HEIGHTxWIDTH`."""

    allowed = "H or HxW in pixels, such as 224 or 192x256"

    def convert(self, argument: str) -> tuple[int, int] | None:
        sides = str(argument).lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            return None
        return int(sides[0]), int(sides[-1])


class IntegerRange(Parser):
    """`A-B`: two whole numbers from 1 upward, the second no less than the first."""

    allowed = "FIRST-LAST, such as 20-30"

    def convert(self, argument: str | tuple[int, int]) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d+)-(\d+)", str(argument).strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            return None
        return int(match[1]), int(match[2])


class Bytes(Parser):
    """A number of bytes with a unit: kB, MB, GB or TB, of 1,000 each; KiB … TiB of 1,024."""

    allowed = "bytes with a unit, such as 500MB or 4GiB, up to a million TB"
    UNITS = " kmgt"

    def convert(self, argument: str) -> int | None:
        text = str(argument).strip().lower()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text)
        if not match:
            return None
        number, unit, binary = match.groups()
        size = float(number) * (1024 if binary else 1000) ** self.UNITS.index(unit or " ")
        return int(size) if size <= MAX_BYTES else None


class Number(Parser):
    """A finite number of a kind (int or float), not below a minimum."""

    def __init__(self, kind: type, minimum: float = -math.inf) -> None:
        self.kind, self.minimum = kind, minimum
        self.allowed = {int: "a whole number", float: "a number"}[kind]
        if minimum > -math.inf:
            self.allowed += f", {minimum} or more"

    def convert(self, argument: str | float) -> int | float | None:
        try:
            number = self.kind(argument)
        except ValueError:
            return None
        return number if self.minimum <= number < math.inf else None


class NumberOrAuto(Number):
    """As `Number`, or `auto`."""

    def __init__(self, kind: type, minimum: float = -math.inf) -> None:
        super().__init__(kind, minimum)
        self.allowed += f", or {AUTO}"

    def convert(self, argument: str | float) -> Any:
        return AUTO if argument == AUTO else super().convert(argument)


def define(
    values: flags.FlagValues, name: str, default: Any, parser: flags.ArgumentParser, help: str
) -> None:
    """Defines a flag.

    Args:
      help: what the flag is; may end in `; default: …`, for a default that is None.
    """
    allowed = getattr(parser, "allowed", "")
    text = f"{help}; allowed: {allowed}" if allowed else help
    flags.DEFINE(parser, name, default, text, flag_values=values)


def define_choice(
    values: flags.FlagValues, name: str, default: str | None, names: Iterable[str], help: str
) -> None:
    define(values, name, default, Choice(names), help)


def define_path(values: flags.FlagValues, name: str, default: str | None, help: str) -> None:
    define(values, name, default, Path(), help)


def define_integer(
    values: flags.FlagValues, name: str, default: int | None, help: str, minimum: int = 0
) -> None:
    define(values, name, default, Number(int, minimum), help)


def define_number(
    values: flags.FlagValues, name: str, default: float | None, help: str, minimum: float = 0
) -> None:
    define(values, name, default, Number(float, minimum), help)


def define_text(values: flags.FlagValues, name: str, default: str | None, help: str) -> None:
    flags.DEFINE_string(name, default, help, flag_values=values)


def define_switch(values: flags.FlagValues, name: str, default: bool, help: str) -> None:
    flags.DEFINE_bool(name, default, help, flag_values=values)
