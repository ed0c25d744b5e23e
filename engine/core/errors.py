"""Errors that the user can correct, and the nearest allowed word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from engine.core.text import printable

Entry = TypeVar("Entry")
_MAX_LENGTH = 2000  # characters of a message


class UserError(Exception):
    """One line: what was received, what is allowed, what to do next. Shown without a traceback.

    What was received may be any text: control characters are escaped, and a message that is too
    long to be read loses its middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shorten_middle(printable(_shorten_middle(message))))


def _shorten_middle(text: str) -> str:
    half = _MAX_LENGTH // 2 - 2
    return text if len(text) <= _MAX_LENGTH else f"{text[:half]} … {text[-half:]}"


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Returns ` (did you mean 'adam'?)`, or nothing where no allowed word is similar."""
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def choose(name: str, table: Mapping[str, Entry], what: str) -> Entry:
    """Returns the table's entry of that name.

    Raises:
      UserError: the table has no such entry; the message names the nearest one and all others.
    """
    if name in table:
        return table[name]
    raise UserError(
        f"{what} {name!r} does not exist{nearest(name, table)}; allowed: {', '.join(table)}"
    )


def require(condition: bool, message: str) -> None:
    """Raises a UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)
