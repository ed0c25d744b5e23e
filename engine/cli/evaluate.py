"""Evaluates a trained model, sets its decision rule, and compares it with other runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from engine.cli import command_line
from engine.cli import evaluation_output as output
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli.flag_types import Choice, define, define_options, define_switch
from engine.cli.parsed_flags import FlagError, ParsedFlags
from engine.commands.compare import CompareOptions, compare
from engine.commands.evaluate import evaluate
from engine.commands.evaluate_options import EvaluateOptions
from engine.core.options import declared_options

FORMATS = {
    "table": (output.evaluation_table, output.comparison_table),
    "json": (output.evaluation_json, output.comparison_json),
}


def define_evaluate(values: flags.FlagValues) -> None:
    define_options(values, EvaluateOptions)
    define(values, "format", "table", Choice(FORMATS), "of the output")
    text = (
        "compare the runs that follow with the first of them, on the images that both have: those "
        "that data flags name, or the split of each run's own data"
    )
    define_switch(values, "compare", False, text)
    cli_flags.define_cache_dir(values)


def main(argv: list[str]) -> None:
    usage = "--run_dir=R [flags] | --compare [flags] R1 R2 ..."
    groups = (define_evaluate, cli_flags.define_data)
    parsed = command_line.parse(usage, groups, argv, about=__doc__)
    shared = {"data": cli_flags.other_data(parsed), "cache": cli_flags.cache_options(parsed)}
    if parsed.compare:
        print(FORMATS[parsed.format][1](compare(compare_options(parsed, shared), cli_main.log)))
        return
    options = evaluate_options(parsed, **shared, command=cli_main.command_text(argv))
    evaluate(options, cli_main.log, lambda result: print(FORMATS[parsed.format][0](result)))


def evaluate_options(parsed: ParsedFlags, **values: Any) -> EvaluateOptions:
    """Raises:
    FlagError: no run is named, or values do not go together.
    """
    if parsed.arguments:
        raise FlagError(f"{parsed.arguments[0]!r} is no flag; runs follow --compare")
    parsed.require(run_dir=cli_flags.RUN_DIR_HINT)
    return parsed.options(EvaluateOptions, **values)


def compare_options(parsed: ParsedFlags, shared: dict[str, Any]) -> CompareOptions:
    """Raises:
    FlagError: fewer than two runs are named, or a flag has no use.
    """
    only_evaluate = {*declared_options(EvaluateOptions)} - {*declared_options(CompareOptions)}
    parsed.refuse(only_evaluate, "has no use with --compare; omit one of them")
    if len(parsed.arguments) < 2:
        raise FlagError(
            "--compare takes two runs or more; name their directories after it, as "
            "--compare runs/a runs/b"
        )
    return parsed.options(CompareOptions, run_dirs=tuple(map(Path, parsed.arguments)), **shared)
