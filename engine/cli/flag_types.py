"""How a command line is read: flag files, allowed values, help, and what is said about a mistake.

absl adds a repeated flag on the command line to those of the flag file; here those on the command
line take the place of the file's. Flag files are read here too: always as UTF-8.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from absl import flags

from engine.core.errors import UserError, nearest

AUTO = "auto"
LISTS = ("phase",)  # flags that may stand several times
_LARGEST = 1 << 20  # bytes of a flag file
_LONGEST_NAME = 100  # letters of a flag's name


class FlagError(UserError):
    """A flag that is not as it should be: the program ends with 2."""


class Choice(flags.ArgumentParser):
    """Takes one of the allowed words, and names the nearest where it gets another."""

    syntactic_help = ""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = list(allowed)

    def parse(self, argument: str) -> str:
        if argument in self.allowed:
            return argument
        hint = nearest(argument, self.allowed)
        raise ValueError(f"{argument!r} does not exist{hint}; allowed: {', '.join(self.allowed)}")


class Place(flags.ArgumentParser):
    """A path; `~` is the home folder, which shells leave alone behind `--flag=`."""

    syntactic_help = ""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)


class Size(flags.ArgumentParser):
    """`224` or `HEIGHTxWIDTH`, in pixels."""

    syntactic_help = ""

    def parse(self, argument: str) -> tuple[int, int]:
        sides = str(argument).lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            raise ValueError(f"{argument!r}; allowed: H or HxW in pixels, such as 224 or 192x256")
        return int(sides[0]), int(sides[-1])


class Span(flags.ArgumentParser):
    """`A-B`: two whole numbers from 1 upward, the second no less than the first."""

    syntactic_help = ""

    def parse(self, argument: str | tuple[int, int]) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)-(\d+)", str(argument).strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"{argument!r}; allowed: FIRST-LAST, such as 20-30")
        return int(match[1]), int(match[2])


class Bytes(flags.ArgumentParser):
    """A number of bytes with a unit: kB, MB, GB or TB, of 1,000 each; KiB … TiB of 1,024."""

    syntactic_help = ""
    UNITS = ("k", "m", "g", "t")
    MOST = 1e18

    def parse(self, argument: str) -> int:
        match = re.fullmatch(
            r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", str(argument).strip().lower()
        )
        if not match:
            raise ValueError(f"{argument!r}; allowed: bytes with a unit, such as 500MB or 4GiB")
        number, unit, binary = match.groups()
        power = self.UNITS.index(unit) + 1 if unit else 0
        size = float(number) * (1024 if binary else 1000) ** power
        if size > self.MOST:
            raise ValueError(f"{argument!r}; allowed: a million terabytes at most")
        return int(size)


class Number(flags.ArgumentParser):
    """A finite number of a kind (int or float), and no less than `least`."""

    syntactic_help = ""

    def __init__(self, kind: type, least: float = -math.inf) -> None:
        self.kind, self.least = kind, least

    def parse(self, argument: str | float) -> int | float:
        try:
            number = self.kind(argument)
        except ValueError:
            number = math.nan
        if self.least <= number < math.inf:
            return number
        words = {int: "a whole number", float: "a number"}[self.kind]
        more = "" if self.least == -math.inf else f", {self.least} or more"
        raise ValueError(f"{str(argument)!r}; allowed: {words}{more}")


class NumberOrAuto(Number):
    """As `Number`, or `auto`."""

    def parse(self, argument: str | float) -> Any:
        try:
            return AUTO if argument == AUTO else super().parse(argument)
        except ValueError as error:
            raise ValueError(f"{error}, or {AUTO}") from None


class Parsed:
    """A program's flags as attributes, and which of them the user gave, in order."""

    def __init__(self, values: flags.FlagValues, given: list[str], words: list[str]) -> None:
        self._values, self.given, self.words = values, given, words

    def __getattr__(self, name: str) -> Any:
        return self._values[name].value

    def as_flags(self, names: Iterable[str]) -> list[str]:
        """Those of the flags that were given, as another program's command line takes them.

        In the order in which they were given last, since of some the last one counts.
        """
        wanted, found = set(names), []
        for name in reversed(dict.fromkeys(reversed(self.given))):
            if name in wanted:
                value = self._values[name].value
                values = value if isinstance(value, list) else [value]
                found += [f"--{name}={_as_text(one)}" for one in values]
        return found


def _as_text(value: Any) -> str:
    """A size is (height, width) in flags, and `HEIGHTxWIDTH` in words."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def choice(
    values: flags.FlagValues, name: str, default: str | None, allowed: Iterable, help: str
) -> None:
    parser = Choice(allowed)
    text = f"{help}; allowed: {', '.join(parser.allowed)}"
    flags.DEFINE(parser, name, default, text, flag_values=values)


def place(values: flags.FlagValues, name: str, default: str | None, help: str) -> None:
    flags.DEFINE(Place(), name, default, help, flag_values=values)


def whole(values: flags.FlagValues, name: str, default: Any, help: str, least: int = 0) -> None:
    flags.DEFINE(Number(int, least), name, default, help, flag_values=values)


def number(values: flags.FlagValues, name: str, default: Any, help: str, least: float = 0) -> None:
    flags.DEFINE(Number(float, least), name, default, help, flag_values=values)


def parse(
    usage: str,
    define: Sequence[Callable[[flags.FlagValues], None]],
    argv: Sequence[str],
    of_others: Iterable[str] = (),
    about: str | None = None,
) -> Parsed:
    """Reads the flags of a program.

    `--help` prints them all and exits with 0. Words that are no flags may follow where the usage
    ends with `...`.

    Args:
      of_others: flags that a flag file may hold for other programs; passed over there.
      about: what the program does, for `--help`.

    Raises:
      FlagError: an unknown flag, a value that does not fit, a flag file that can't be read, or a
        word where none is expected.
    """
    values = flags.FlagValues()
    for group in define:
        group(values)
    program = Path(argv[0]).name
    if {"--help", "-help", "-h", "-?"} & set(argv[1:]):
        print(help_text(program, usage, about, values), flush=True)
        raise SystemExit(0)
    tokens, rest = _expand(argv[1:], {*of_others} - {*values})
    for token in tokens:
        if len(_name(token)) > _LONGEST_NAME:  # absl would look for what is near for ever
            raise _unknown(program, _name(token), values)
    try:
        words = values([argv[0], *tokens, *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown(program, error.flagname.split("=")[0], values) from None
    except flags.IllegalFlagValueError as error:
        raise FlagError(str(error).removeprefix("flag ")) from None
    except (flags.Error, ValueError) as error:  # absl raises a bare one for `--noflag=value`
        raise FlagError(str(error)) from None
    if words and not usage.endswith("..."):
        raise FlagError(_stray(program, words[0]))
    given = [name for token in tokens if (name := _given(token, values)) in values]
    return Parsed(values, given, words)


def _unknown(program: str, name: str, values: flags.FlagValues) -> FlagError:
    hint = nearest(name, [*values, "flagfile", "help"])
    return FlagError(f"--{name} is no flag{hint}; bin/{program} --help lists all")


def _stray(program: str, word: str) -> str:
    meant = f"--flagfile={word}" if word.endswith(".flags") else f"bin/{program} --help"
    return f"{word!r} is no flag, and {program} takes nothing else; write {meant}"


def _name(token: str) -> str:
    return token.lstrip("-").split("=")[0] if token.startswith("-") else ""


def _given(token: str, values: flags.FlagValues) -> str:
    """The flag that a token sets: `--noname` sets `name`."""
    name = _name(token)
    return name if name in values else name.removeprefix("no")


def _expand(argv: Sequence[str], of_others: Set[str]) -> tuple[list[str], list[str]]:
    """The arguments with flag files in their place, less what the command line overrides.

    And apart from them `--` with what follows, which are words.
    """
    tokens: list[tuple[str, bool]] = []
    waiting = deque((token, False) for token in argv)
    seen: set[str] = set()
    while waiting and waiting[0][0] != "--":
        token, from_file = waiting.popleft()
        if _name(token) != "flagfile":
            tokens.append((token, from_file))
            continue
        file = token.split("=", 1)[1] if "=" in token else waiting.popleft()[0] if waiting else ""
        if not (from_file and file in seen):  # a file that names itself would never end
            seen.add(file)
            waiting.extendleft((line, True) for line in reversed(_read_flagfile(file)))
    direct = {_name(token) for token, from_file in tokens if not from_file}
    left_out = (direct & set(LISTS)) | of_others | {f"no{name}" for name in of_others}
    kept = [token for token, from_file in tokens if not (from_file and _name(token) in left_out)]
    return kept, [token for token, _ in waiting]


def _read_flagfile(file: str) -> list[str]:
    """The lines of a flag file, less the empty ones and the comments (`#` or `//`)."""
    try:
        text = _text(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        known = sorted(path.name for path in Path(__file__).parents[2].glob("*.flags"))
        hint = nearest(Path(file).name, known)
        raise FlagError(
            f"--flagfile={file}: can't be read ({reason}){hint}; Unfreeze brings {', '.join(known)}"
        ) from None
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _text(file: str) -> str:
    """What stands in a file, less the mark that editors on Windows put before it.

    Raises:
      OSError: there is no such file; ValueError: it is no text, or larger than any flag file.
    """
    with open(os.path.expanduser(file), "rb") as stream:
        data = stream.read(_LARGEST + 1)  # and no more: a device has no end
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    if "\0" in text:
        raise ValueError("it holds a zero byte")
    return text


def help_text(program: str, usage: str, about: str | None, values: flags.FlagValues) -> str:
    lines = [f"usage: bin/{program} [--flagfile=FILE] {usage}", ""]
    lines += [about, ""] if about else []
    for name in values:
        flag = values[name]
        none = flag.default is None or flag.default is False
        default = "" if none else f" (default: {flag.default})"
        title = f"  --[no]{name}" if flag.boolean else f"  --{name}=…"
        lines.append(title + default)
        text = " ".join(flag.help.split())
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  --flagfile=FILE", "      a file with one flag a line; flags after it override it"]
    return "\n".join(lines)


def flagfile_name(argv: Sequence[str]) -> str | None:
    """`cats_dogs` for `--flagfile=some/cats_dogs.flags`; the last one where there are several."""
    names = [Path(b).stem for a, b in zip(argv, [*argv[1:], ""], strict=True) if a == "--flagfile"]
    names += [Path(a.split("=", 1)[1]).stem for a in argv if a.startswith("--flagfile=")]
    return names[-1] if names else None
