"""The call syntax of phases and augmentations: `name(value, key=value, …)`, joined by `|`.

Values are numbers, `true`, `false`, `none`, bare words (letters, digits and `_ . / -`), text in
quotes, or calls with brackets, as in `average=soup(3)`.
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
      | (?P<mark>[(),=|]) | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_MAX_DIGITS = 400  # the largest float has 309, int() takes 4300
_MAX_DEPTH = 20  # of calls inside each other
_CONSTANTS = {"true": True, "false": False, "none": None}


@dataclasses.dataclass(frozen=True)
class Call:
    """A name with values, such as `rotate(30)` or `cutout(size=0.3)`.

    The `str` of a parsed call parses to the same call.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name if not self.args and not self.kwargs else self._with_brackets()

    def _with_brackets(self) -> str:
        values = [value_text(value) for value in self.args]
        values += [f"{key}={value_text(value)}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(values)})"


def value_text(value: Any) -> str:
    """Writes an argument of a call as the parser reads it."""
    if isinstance(value, Call):
        return value._with_brackets()
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    return repr(value)


def parse_call(text: str) -> Call:
    """Parses `name` or `name(value, key=value, …)`.

    Raises:
      UserError: the text is not one such call.
    """
    calls = parse_calls(text)
    if len(calls) != 1:
        raise UserError(f"{text!r} holds {len(calls)} calls; allowed: one, as name(key=value)")
    return calls[0]


def parse_calls(text: str) -> tuple[Call, ...]:
    """Parses calls joined by `|`; empty text and `none` are no calls.

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
    """Reads the tokens of one text; `kind` and `value` are the current token."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text.rstrip(), 0, 0
        self.advance()

    def advance(self) -> None:
        self.start = self.position
        match = _TOKEN.match(self.text, self.position)
        if not match:
            raise self.error("a name, a number or text in quotes")
        self.kind = match.lastgroup or ""
        self.value, self.position = match[self.kind], match.end()

    def error(self, expected: str) -> UserError:
        rest = self.text[self.start :].strip()
        place = f"at {rest!r}" if rest else "at its end"
        return UserError(
            f"{self.text!r} {place}: expected {expected}; write name(key=value, …), "
            "as in rotate(30) or fine_tune(trainable=all, epochs=2)"
        )

    def take(self, mark: str) -> bool:
        if self.kind != "mark" or self.value != mark:
            return False
        self.advance()
        return True

    def call(self) -> Call:
        if self.kind != "word" or not self.value.isidentifier():
            raise self.error("a name")
        if self.value == "none":
            raise self.error("a name, since none stands for no call at all")
        name = self.value
        self.advance()
        return self.arguments(name) if self.take("(") else Call(name)

    def arguments(self, name: str) -> Call:
        """What follows the opening bracket."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(f"at most {_MAX_DEPTH} calls inside each other")
        if not self.take(")"):
            self.argument(args, kwargs)
            while self.take(","):
                self.argument(args, kwargs)
            if not self.take(")"):
                raise self.error("',' or ')'")
        self.depth -= 1
        return Call(name, tuple(args), kwargs)

    def argument(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        word = self.value if self.kind == "word" else ""
        value = self.argument_value()
        if not self.take("="):
            if kwargs:
                raise self.error("key=value, since plain values stand first")
            args.append(value)
            return
        if not word.isidentifier() or isinstance(value, Call) or word in kwargs:
            raise self.error("each key once, as a plain word")
        kwargs[word] = self.argument_value()

    def argument_value(self) -> Any:
        kind, text = self.kind, self.value
        if kind not in ("number", "word", "single", "double"):
            raise self.error("a value")
        if kind == "number" and (len(text) > _MAX_DIGITS or math.isinf(float(text))):
            raise self.error("a number that is not beyond all bounds")
        self.advance()
        if kind == "number":
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if kind != "word":
            return text
        if text.isidentifier() and text != "none" and self.take("("):
            return self.arguments(text)
        return _CONSTANTS.get(text, text)
