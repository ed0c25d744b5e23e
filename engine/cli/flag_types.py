"""Types of flags: which values are allowed, how they are converted, what `--help` says."""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import types
import typing
from collections.abc import Collection, Iterable
from typing import Any

from absl import flags

from engine.core.errors import nearest
from engine.core.options import REQUIRED, Option, declared_options

AUTO = "auto"
MAX_BYTES = 1e18


class Parser(flags.ArgumentParser):
    """Converts the text of a flag.

    allowed: in words, for help and errors.
    """

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
    """A path, None for an empty one; `~` is the home folder, as shells leave it in `--flag=~`."""

    def parse(self, argument: str) -> pathlib.Path | None:
        return pathlib.Path(os.path.expanduser(argument)) if argument else None


class Names(Parser):
    """Names joined by commas, as a tuple."""

    def convert(self, argument: str | tuple[str, ...]) -> tuple[str, ...]:
        words = argument.split(",") if isinstance(argument, str) else argument
        return tuple(word.strip() for word in words if word.strip())


class WholeNumbers(Names):
    """Whole numbers from 1 upward, joined by commas."""

    allowed = "whole numbers, such as 16,32,64"

    def convert(self, argument: str | tuple[str, ...]) -> Any:
        words = super().convert(argument)
        valid = all(word.isdecimal() and int(word) for word in words)
        return tuple(map(int, words)) if valid else None


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


class Duration(Parser):
    """Seconds, from a number with the unit s, m or h."""

    allowed = "a time with its unit, such as 90s, 10m or 1.5h"

    def convert(self, argument: str | float) -> float | None:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", str(argument).strip())
        return float(match[1]) * 60 ** "smh".index(match[2]) or None if match else None


class Number(Parser):
    """A finite number of a kind (int or float) that an option allows, or the option's word."""

    def __init__(self, kind: type, option: Option) -> None:
        self.kind, self.option, self.allowed = kind, option, option.describe(kind)

    def convert(self, argument: str | float) -> Any:
        if self.option.word and argument == self.option.word:
            return argument
        try:
            number = self.kind(argument)
        except ValueError:
            return None
        return number if self.option.allows(number) else None


# By the types of a field.
PARSERS = {
    (str,): lambda option: Choice(option.choices) if option.choices else flags.ArgumentParser(),
    (int,): lambda option: Number(int, option),
    (float,): lambda option: Number(float, option),
    (str, int): lambda option: Number(int, option),
    (pathlib.Path,): lambda option: Path(),
    (tuple[int, int],): lambda option: IntegerRange(),
    (tuple[str, ...],): lambda option: Names(),
}


def define_options(
    values: flags.FlagValues, kind: type, omit: Collection[str] = (), **parsers: Parser
) -> None:
    """Defines a flag for each option of a dataclass that has a help text, and no flag yet.

    Args:
      omit: names of options that get no flag here.
      parsers: of flags whose type is not the field's.
    """
    hints, options = typing.get_type_hints(kind), declared_options(kind)
    # A class's own fields before those of its bases, which are about the process.
    annotated = (name for one in kind.__mro__ for name in inspect.get_annotations(one))
    for name in (name for name in dict.fromkeys(annotated) if name in options):
        option = options[name]
        if not option.help or name in omit or name in values:
            continue
        default = kind.__dataclass_fields__[name].default  # type: ignore[attr-defined]
        default = None if default is REQUIRED else default
        if hints[name] is bool:
            flags.DEFINE_bool(name, default, option.help, flag_values=values)
        else:
            parser = parsers.get(name) or PARSERS[_without_none(hints[name])](option)
            define(values, name, default, parser, option.help)


def _without_none(hint: Any) -> tuple[Any, ...]:
    """`(str, int)` for `str | int | None`."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if union else (hint,)
    return tuple(kind for kind in kinds if kind is not types.NoneType)


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


def define_path(values: flags.FlagValues, name: str, default: str | None, help: str) -> None:
    define(values, name, default, Path(), help)


def define_text(values: flags.FlagValues, name: str, default: str | None, help: str) -> None:
    flags.DEFINE_string(name, default, help, flag_values=values)


def define_switch(values: flags.FlagValues, name: str, default: bool, help: str) -> None:
    flags.DEFINE_bool(name, default, help, flag_values=values)
