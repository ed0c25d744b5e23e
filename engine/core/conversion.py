"""Plain values, as JSON and the call syntax have them, made into what a type asks for."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from engine.core.call_syntax import Call, parse_call
from engine.core.errors import UserError, choose, require

_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Call: "text as in rotate(30)",
}


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
      UserError: the text is none, or lists stand in it in lists a thousand times.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from None


def convert(value: Any, kind: Any, what: str) -> Any:
    """The value as the type asks for it, or a UserError that says what was received."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else convert(value, rest, what)
    if kind is Call and isinstance(value, str):
        return parse_call(value)
    if dataclasses.is_dataclass(kind) and kind is not Call:
        return _fields(value, kind, what)
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        require(len(inner) == len(value), f"{what}={value!r}; allowed: {len(inner)} values")
        return tuple(convert(v, k, what) for v, k in zip(value, inner, strict=True))
    if origin is list and isinstance(value, list):
        return [convert(v, arguments[0], what) for v in value]
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return value
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    raise UserError(
        f"{what}={_shown(value)}; allowed: {_IN_WORDS.get(kind, 'a list or an object')}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _fields(values: Any, kind: Any, what: str) -> Any:
    require(isinstance(values, dict), f"{what} is {type(values).__name__}; allowed: an object")
    hints = typing.get_type_hints(kind)
    for key in values:
        choose(key, hints, f"{what}: key")
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        require(not needed or field.name in values, f"{what}: key {field.name!r} is missing")
    return kind(
        **{key: convert(value, hints[key], f"{what}.{key}") for key, value in values.items()}
    )
