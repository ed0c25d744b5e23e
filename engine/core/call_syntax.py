"""The call syntax of phases and augmentations: `name(value, key=value, …)`, joined by `|`.

Values are numbers, `true`, `false`, `none`, bare words (letters, digits and `_ . / -`), or text
in quotes.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from engine.core.errors import UserError

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w./-]))
      | (?P<word>[\w./-]+)
      | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
      | (?P<mark>[(),=|])
    )""",
    re.VERBOSE,
)
_LONGEST = 400  # characters of a number; the largest float has 309 digits, int() takes 4300
_CONSTANTS = {"true": True, "false": False, "none": None}


@dataclasses.dataclass(frozen=True)
class Call:
    """A name with values, as `rotate(30)` or `cutout(size=0.3)`.

    What was parsed is written by `str` so that it parses back to the same call.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        values = [_write(value) for value in self.args]
        values += [f"{key}={_write(value)}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(values)})" if values else self.name


def _write(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    return repr(value)


def parse_call(text: str) -> Call:
    """`name` or `name(value, key=value, …)` -> Call.

    Raises:
      UserError: the text is not one such call.
    """
    calls = parse_calls(text)
    if len(calls) != 1:
        raise UserError(f"{text!r} holds {len(calls)} calls; allowed: one, as name(key=value)")
    return calls[0]


def parse_calls(text: str) -> tuple[Call, ...]:
    """Calls joined by `|` -> tuple of Call; empty text and `none` give an empty one.

    Raises:
      UserError: the text does not follow the syntax; the message says where.
    """
    if text.strip() in ("", "none"):
        return ()
    parser = _Parser(text)
    calls = [parser.call()]
    while parser.take("|"):
        calls.append(parser.call())
    if parser.kind != "end":
        raise parser.error("'|' or the end")
    return tuple(calls)


class _Parser:
    """A cursor over the tokens of one text; `kind` and `value` are the token it stands at."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text.rstrip(), 0
        self.kind, self.value, self.start = "", "", 0
        self.advance()

    def advance(self) -> None:
        self.start = self.position
        if self.position == len(self.text):
            self.kind, self.value = "end", ""
            return
        match = _TOKEN.match(self.text, self.position)
        if not match:
            raise self.error("a name, a number or text in quotes")
        self.kind, self.value = next((k, v) for k, v in match.groupdict().items() if v is not None)
        self.position = match.end()

    def error(self, expected: str) -> UserError:
        place = (
            f"at {self.text[self.start :].strip()!r}" if self.text[self.start :] else "at its end"
        )
        return UserError(
            f"{self.text!r} {place}: expected {expected}; write name(key=value, …), "
            "as in rotate(30) or fine_tune(trainable=all, epochs=2)"
        )

    def take(self, mark: str) -> bool:
        found = self.kind == "mark" and self.value == mark
        if found:
            self.advance()
        return found

    def call(self) -> Call:
        if self.kind != "word" or not self.value.isidentifier():
            raise self.error("a name")
        if self.value == "none":
            raise self.error("a name, since none stands for no call at all")
        name = self.value
        self.advance()
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if self.take("(") and not self.take(")"):
            self.argument(args, kwargs)
            while self.take(","):
                self.argument(args, kwargs)
            if not self.take(")"):
                raise self.error("',' or ')'")
        return Call(name, tuple(args), kwargs)

    def argument(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        word = self.value if self.kind == "word" else None
        value = self.literal()
        if not self.take("="):
            if kwargs:
                raise self.error("key=value, since plain values stand first")
            args.append(value)
            return
        if word is None or not word.isidentifier() or word in kwargs:
            raise self.error("each key once, as a plain word")
        kwargs[word] = self.literal()

    def literal(self) -> Any:
        kind, value = self.kind, self.value
        if kind not in ("number", "word", "single", "double"):
            raise self.error("a value")
        if kind == "number" and (len(value) > _LONGEST or math.isinf(float(value))):
            raise self.error("a number that is not beyond all bounds")
        self.advance()
        if kind == "number":
            return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)
        return _CONSTANTS.get(value, value) if kind == "word" else value
