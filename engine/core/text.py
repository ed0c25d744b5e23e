"""Text in a CSV file that may be opened in a spreadsheet, which takes some text for a formula.

Source: OWASP, "CSV Injection". A manifest is not written so: what reads it takes every character as
it stands. A class named `=x` is `=x` in JSON and `'=x` in CSV.
"""

from __future__ import annotations

from contextlib import suppress

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def text(value: str) -> str:
    """With an apostrophe before what would be a formula; a number such as `-1` is none."""
    if not value.startswith(_FORMULA):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def path(value: str) -> str:
    """A name that would be a formula, as another name of the same file."""
    return f"./{value}" if value.startswith(_FORMULA) else value
