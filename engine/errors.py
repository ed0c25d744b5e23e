"""A mistake that the user can mend, and help in finding the right word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One line: what was received, what is allowed, what to do next. Shown without a traceback."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'adam'?)`, or nothing where no allowed word is near."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
