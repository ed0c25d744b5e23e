"""Options declared as fields: limits as text, and values that are refused."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from engine.core.errors import UserError
from engine.core.options import Option, check_options, option


@dataclasses.dataclass
class Options:
    share: float = option(0.5, minimum=0, below=1)
    rate: float = option(0.1, above=0)
    port: str | int = option(80, minimum=0, maximum=65535, word="any")
    size: int | None = option(None, minimum=1)
    mode: str = option("auto", choices=("auto", "on", "off"))
    free: Any = 0


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"share": 0},
        {"port": 65535},
        {"port": "any"},
        {"size": 1},
        {"mode": "off"},
        {"free": -1},
    ],
)
def test_values_within_the_limits_are_accepted(values):
    check_options(Options(**values))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(("share", value, "a number, 0 or more, below 1") for value in (-0.1, 1, math.nan)),
        *(("rate", value, "a number, above 0") for value in (0, -1.0, math.nan)),
        ("port", -1, "a whole number, 0 to 65535, or any"),
        ("port", 65536, "a whole number, 0 to 65535, or any"),
        ("size", 0, "a whole number, 1 or more"),
    ],
)
def test_value_beyond_a_limit_is_refused(name, value, allowed):
    with pytest.raises(UserError, match=f"^here: {name}={value}; allowed: {allowed}$"):
        check_options(Options(**{name: value}), "here: ")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("share", "0.5", "a number, 0 or more, below 1"),
        ("share", False, "a number, 0 or more, below 1"),
        ("port", "all", "a whole number, 0 to 65535, or any"),
        ("size", 1.5, "a whole number, 1 or more"),
        ("size", [1], "a whole number, 1 or more"),
        ("share", None, "a value; give one"),
    ],
)
def test_value_of_another_type_is_refused(name, value, allowed):
    with pytest.raises(UserError, match=f"^{re.escape(f'{name}={value!r}')}; allowed: {allowed}$"):
        check_options(Options(**{name: value}))


@pytest.mark.parametrize("value", [None, 3, ["on"]])
def test_choice_of_another_type_is_refused(value):
    with pytest.raises(UserError, match=r"^mode.*allowed"):
        check_options(Options(mode=value))


def test_unknown_choice_is_refused_with_the_nearest():
    message = r"mode 'of' does not exist \(did you mean 'off'\?\); allowed: auto, on, off"
    with pytest.raises(UserError, match=message):
        check_options(Options(mode="of"))


def test_limits_of_any_number_are_empty():
    assert Option().limits == ""
    assert Option(maximum=3).limits == "up to 3"
