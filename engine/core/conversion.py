"""Conversion of plain values, as JSON and the call syntax have them, to annotated types."""

from __future__ import annotations

import dataclasses
import json
import reprlib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from engine.core.call_syntax import Call, parse_call
from engine.core.errors import UserError, choose, require

_DESCRIPTIONS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Call: "text as in rotate(30)",
}


_SHORT = reprlib.Repr()  # of any depth
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100


def parse_json(text: str | bytes) -> Any:
    """Parses a JSON text.

    Raises:
      UserError: it is no JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from None


def convert(value: Any, kind: Any, what: str) -> Any:
    """Returns the value as the annotated type.

    Args:
      kind: int, float, bool, str, Any, Call, a dataclass, or a tuple, list, Mapping or Optional of
        such.
      what: the value's name, for the message.

    Raises:
      UserError: the value is of another type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        some = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else convert(value, some, what)
    if kind is Any:
        return value
    if kind is Call and isinstance(value, str | Call):
        return parse_call(value) if isinstance(value, str) else value
    if dataclasses.is_dataclass(kind) and kind is not Call:
        return _fields(value, kind, what)
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        require(
            len(inner) == len(value), f"{what}={_SHORT.repr(value)}; allowed: {len(inner)} values"
        )
        return tuple(convert(v, k, what) for v, k in zip(value, inner, strict=True))
    if origin is list and isinstance(value, list):
        return [convert(v, arguments[0], what) for v in value]
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        return {k: convert(v, arguments[1], f"{what}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if kind in (int, float, str, bool) and type(value) is kind:
        return value
    allowed = _DESCRIPTIONS.get(kind, "a list or an object")
    raise UserError(f"{what}={_SHORT.repr(value)}; allowed: {allowed}")


def _fields(values: Any, kind: Any, what: str) -> Any:
    require(isinstance(values, dict), f"{what} is {type(values).__name__}; allowed: an object")
    hints = typing.get_type_hints(kind)
    for key in values:
        choose(key, hints, f"{what}: key")
    for field in dataclasses.fields(kind):
        required = field.default is field.default_factory is dataclasses.MISSING
        require(not required or field.name in values, f"{what}: key {field.name!r} is missing")
    return kind(
        **{key: convert(value, hints[key], f"{what}.{key}") for key, value in values.items()}
    )
