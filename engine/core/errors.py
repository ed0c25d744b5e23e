"""A mistake that the user can mend, and help in finding the right word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")
_LONGEST = 2000  # letters of a message


class UserError(Exception):
    """One line: what was received, what is allowed, what to do next. Shown without a traceback.

    What was received may be anything: what a terminal would obey is escaped, and a message that is
    too long to be read loses its middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_short("".join(map(_escaped, _short(message)))))


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else repr(letter)[1:-1]


def _short(text: str) -> str:
    half = _LONGEST // 2 - 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'adam'?)`, or nothing where no allowed word is near."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(name: str, table: Mapping[str, Entry], what: str) -> Entry:
    """The table's entry of that name.

    Raises:
      UserError: the table has no such entry; the message names the nearest and all that there are.
    """
    if name in table:
        return table[name]
    raise UserError(
        f"{what} {name!r} does not exist{nearest(name, table)}; allowed: {', '.join(table)}"
    )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
