"""Flags read as bin/train reads them."""

from __future__ import annotations

from pathlib import Path

import _flags
import pytest

ROOT = Path(__file__).resolve().parents[2]


def parse(*arguments) -> _flags.Parsed:
    return _flags.parse("[flags]", _flags.RUN, ["bin/train", *map(str, arguments)])


def recipe(*arguments):
    return _flags.recipe(parse("--data_dir=x", *arguments))


def refused(*arguments, read=recipe) -> str:
    with pytest.raises(_flags.FlagError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def phases(found) -> list[str]:
    return [phase.name for phase in found.phases]
