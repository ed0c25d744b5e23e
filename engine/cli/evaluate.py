"""Evaluates a trained model, sets its decision rule, and compares it with other runs."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from engine.cli import evaluation_output as output
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli import tta_flag
from engine.commands.compare import CompareOptions, compare
from engine.commands.evaluate import EvaluateOptions, RuleChange, evaluate
from engine.core.recipe import DataSpec

FORMATS = {
    "table": (output.evaluation_table, output.comparison_table),
    "json": (output.evaluation_json, output.comparison_json),
}
SPLITS = ("train", "validation", "test", "all")


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "run_dir", None, "the run whose best model is evaluated")
    cli_flags.choice(values, "format", "table", FORMATS, "of the output")
    cli_flags.choice(
        values, "split", None, SPLITS, "of the data; default: validation, or all of other data"
    )
    flags.DEFINE_bool(
        "compare",
        False,
        "compare the runs that follow with the first of them, on the images that both have: those "
        "that data flags name, or the split of each run's own data",
        values,
    )
    cli_flags.whole(values, "threads", None, "CPU threads; all cores if not given", least=1)
    cli_flags.cache_dir(values)
    tta_flag.define(values)
    cli_flags.place(values, "report", None, "folder for report.html and report.json")
    cli_flags.price_per_hour(values)


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
    cli_flags.number(values, "min_recall", None, "the recall of --positive_class, up to 1")
    cli_flags.number(
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
    parsed = cli_flags.parse(
        "--run_dir=R [flags] | --compare [flags] R1 R2 ...",
        (define, define_rule, cli_flags.define_data),
        argv,
        about=__doc__,
    )
    change, data = rule_change(parsed), other_data(parsed)
    if parsed.compare:
        require_compare_flags(parsed, change)
        options = CompareOptions(
            run_dirs=tuple(map(Path, parsed.words)), **_shared_options(parsed, data)
        )
        print(FORMATS[parsed.format][1](compare(options, cli_main.log)))
        return
    require_evaluate_flags(parsed)
    evaluate_run(parsed, change, data, cli_main.command_line(argv))


def evaluate_run(
    parsed: cli_flags.Parsed, change: RuleChange | None, data: DataSpec | None, command: str
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


def _shared_options(parsed: cli_flags.Parsed, data: DataSpec | None) -> dict:
    return {
        "data": data,
        "split": parsed.split,
        "tta": parsed.tta,
        "threads": parsed.threads,
        "cache": cli_flags.cache_options(parsed),
    }


@cli_flags.as_flag_errors()
def rule_change(parsed: cli_flags.Parsed) -> RuleChange | None:
    """The change that the flags ask for; None where they leave the rule as it is.

    Raises:
      FlagError: they exclude each other, or a value does not fit.
    """
    change = RuleChange(parsed.positive_class, parsed.min_recall, parsed.abstain, parsed.plain)
    if change.changes() and parsed.tta:
        raise cli_flags.FlagError(
            f"--tta={parsed.tta} and --{change.changes()[0]}: a saved rule is for predictions of "
            "the image as it is; omit one of them"
        )
    return change if change.changes() else None


def require_evaluate_flags(parsed: cli_flags.Parsed) -> None:
    """
    Raises:
      FlagError: no run is named, or a flag has no use.
    """
    if parsed.words:
        raise cli_flags.FlagError(f"{parsed.words[0]!r} is no flag; runs follow --compare")
    if not parsed.run_dir:
        raise cli_flags.FlagError("--run_dir is missing; give the directory that bin/train wrote")
    if parsed.price_per_hour is not None and not parsed.report:
        raise cli_flags.FlagError(
            "--price_per_hour has no use without --report; give --report=DIR, or omit it"
        )


def require_compare_flags(parsed: cli_flags.Parsed, change: RuleChange | None) -> None:
    """
    Raises:
      FlagError: fewer than two runs are named, or a flag has no use.
    """
    only_evaluate = ("run_dir", "report", "price_per_hour")
    useless = [name for name in only_evaluate if getattr(parsed, name) is not None]
    useless += change.changes() if change else []
    if useless:
        raise cli_flags.FlagError(f"--{useless[0]} has no use with --compare; omit one of them")
    if len(parsed.words) < 2:
        raise cli_flags.FlagError(
            "--compare takes two runs or more; name their directories after it, as "
            "--compare runs/a runs/b"
        )


def other_data(parsed: cli_flags.Parsed) -> DataSpec | None:
    """The data that flags name instead of the run's own.

    Raises:
      FlagError: options of other data, and no other data.
    """
    data = cli_flags.data_spec(parsed)
    stray = sorted(set(parsed.given) & set(cli_flags.DATA))
    if stray and not data:
        raise cli_flags.FlagError(f"--{stray[0]} goes with other data; name it, as with --data_dir")
    return data
