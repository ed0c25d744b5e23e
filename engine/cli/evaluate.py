"""Evaluates a trained model, sets its decision rule, and compares it with other runs."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from engine.cli import command_line, flag_types, tta_flag
from engine.cli import evaluation_output as output
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.commands.compare import CompareOptions, compare
from engine.commands.evaluate import EvaluateOptions, RuleChange, evaluate
from engine.core.recipe import DataSpec

FORMATS = {
    "table": (output.evaluation_table, output.comparison_table),
    "json": (output.evaluation_json, output.comparison_json),
}
SPLITS = ("train", "validation", "test", "all")


def define(values: flags.FlagValues) -> None:
    flag_types.define_path(values, "run_dir", None, "the run whose best model is evaluated")
    flag_types.define_choice(values, "format", "table", FORMATS, "of the output")
    flag_types.define_choice(
        values, "split", None, SPLITS, "of the data; default: validation, or all of other data"
    )
    flags.DEFINE_bool(
        "compare",
        False,
        "compare the runs that follow with the first of them, on the images that both have: those "
        "that data flags name, or the split of each run's own data",
        values,
    )
    flag_types.define_integer(
        values, "threads", None, "CPU threads; all cores if not given", minimum=1
    )
    cli_flags.define_cache_dir(values)
    tta_flag.define(values)
    flag_types.define_path(values, "report", None, "folder for report.html and report.json")
    cli_flags.define_price_per_hour(values)


def define_rule(values: flags.FlagValues) -> None:
    """The flags that change the decision rule saved with the model."""
    flags.DEFINE_string(
        "positive_class",
        None,
        "the class that must not be missed: fits on the run's own validation split the threshold "
        "that reaches a recall of --min_recall with the fewest false alarms, and saves it with the "
        "model",
        flag_values=values,
    )
    flag_types.define_number(values, "min_recall", None, "the recall of --positive_class, up to 1")
    flag_types.define_number(
        values,
        "abstain",
        None,
        "predictions are uncertain where no class has this probability, 0 to 1; 0 for never; saved "
        "with the model",
    )
    flags.DEFINE_bool(
        "plain",
        False,
        "remove what --positive_class and --abstain saved, so that the likeliest class is "
        "predicted; the temperature stays",
        flag_values=values,
    )


def main(argv: list[str]) -> None:
    parsed = command_line.parse(
        "--run_dir=R [flags] | --compare [flags] R1 R2 ...",
        (define, define_rule, cli_flags.define_data),
        argv,
        about=__doc__,
    )
    change, data = rule_change(parsed), other_data(parsed)
    if parsed.compare:
        require_compare_flags(parsed, change)
        options = CompareOptions(
            run_dirs=tuple(map(Path, parsed.arguments)), **_shared_options(parsed, data)
        )
        print(FORMATS[parsed.format][1](compare(options, cli_main.log)))
        return
    require_evaluate_flags(parsed)
    evaluate_run(parsed, change, data, cli_main.command_text(argv))


def evaluate_run(
    parsed: command_line.ParsedFlags, change: RuleChange | None, data: DataSpec | None, command: str
) -> None:
    """Evaluates one run, prints the result, and writes the report."""
    if parsed.report:  # before anything is computed or saved
        from engine.report import write

        write.refuse(Path(parsed.report))
    options = EvaluateOptions(
        run_dir=Path(parsed.run_dir), rule_change=change, **_shared_options(parsed, data)
    )
    result = evaluate(options, cli_main.log)
    print(FORMATS[parsed.format][0](result))
    if parsed.report:
        from engine.commands import reporting

        folder, price = Path(parsed.report), parsed.price_per_hour
        page = reporting.write_evaluation_report(
            result, options, folder, command, price, cli_main.log
        )
        cli_main.log(f"report: {page}")


def _shared_options(parsed: command_line.ParsedFlags, data: DataSpec | None) -> dict:
    return {
        "data": data,
        "split": parsed.split,
        "tta": parsed.tta,
        "threads": parsed.threads,
        "cache": cli_flags.cache_options(parsed),
    }


@command_line.as_flag_errors()
def rule_change(parsed: command_line.ParsedFlags) -> RuleChange | None:
    """The change that the flags ask for; None where they leave the rule as it is.

    Raises:
      FlagError: they exclude each other, or a value does not fit.
    """
    change = RuleChange(parsed.positive_class, parsed.min_recall, parsed.abstain, parsed.plain)
    if change.changes() and parsed.tta:
        raise command_line.FlagError(
            f"--tta={parsed.tta} and --{change.changes()[0]}: a saved rule is for predictions of "
            "the image as it is; omit one of them"
        )
    return change if change.changes() else None


def require_evaluate_flags(parsed: command_line.ParsedFlags) -> None:
    """
    Raises:
      FlagError: no run is named, or a flag has no use.
    """
    if parsed.arguments:
        raise command_line.FlagError(f"{parsed.arguments[0]!r} is no flag; runs follow --compare")
    if not parsed.run_dir:
        raise command_line.FlagError(
            "--run_dir is missing; give the directory that bin/train wrote"
        )
    if parsed.price_per_hour is not None and not parsed.report:
        raise command_line.FlagError(
            "--price_per_hour has no use without --report; give --report=DIR, or omit it"
        )


def require_compare_flags(parsed: command_line.ParsedFlags, change: RuleChange | None) -> None:
    """
    Raises:
      FlagError: fewer than two runs are named, or a flag has no use.
    """
    only_evaluate = ("run_dir", "report", "price_per_hour")
    useless = [name for name in only_evaluate if getattr(parsed, name) is not None]
    useless += change.changes() if change else []
    if useless:
        raise command_line.FlagError(f"--{useless[0]} has no use with --compare; omit one of them")
    if len(parsed.arguments) < 2:
        raise command_line.FlagError(
            "--compare takes two runs or more; name their directories after it, as "
            "--compare runs/a runs/b"
        )


def other_data(parsed: command_line.ParsedFlags) -> DataSpec | None:
    """The data that flags name instead of the run's own.

    Raises:
      FlagError: options of other data, and no other data.
    """
    data = cli_flags.build_data_spec(parsed)
    stray = sorted(set(parsed.explicit) & set(cli_flags.DATA))
    if stray and not data:
        raise command_line.FlagError(
            f"--{stray[0]} goes with other data; name it, as with --data_dir"
        )
    return data
