"""Flags read as bin/train reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli.parsed_flags import FlagError, ParsedFlags

ROOT = Path(__file__).resolve().parents[3]


def parse(*arguments) -> ParsedFlags:
    return command_line.parse("[flags]", cli_flags.RUN, ["bin/train", *map(str, arguments)])


def recipe(*arguments):
    """Of images that nobody reads: with a phase, where the arguments have none."""
    parsed = parse("--data_dir=x", *arguments)
    return cli_flags.build_recipe(
        parsed if parsed.phase else parse("--data_dir=x", *arguments, "--phase=transfer()")
    )


def refused(*arguments, read=recipe) -> str:
    with pytest.raises(FlagError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def phases(found) -> list[str]:
    return [phase.name for phase in found.phases]
