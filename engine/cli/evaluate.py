"""Measures a trained model, sets how its answers are read, and compares it with others."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from absl import flags

from engine.cli import flags as cli_flags
from engine.cli import rule_flags
from engine.commands import format_metrics
from engine.commands import tta as tta_module
from engine.core.recipe import DataSpec
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup

FORMATS = ("table", "json")
PARTS = ("train", "validation", "test", "all")


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "run_dir", None, "the run whose best model is measured")
    cli_flags.choice(values, "format", "table", FORMATS, "of the answer")
    cli_flags.choice(
        values, "part", None, PARTS, "of the data; validation of the run's own, all of other data"
    )
    flags.DEFINE_bool(
        "compare",
        False,
        "runs that follow, each with the first, on images that both have: those that data flags "
        "name, or the part of each run's own data",
        values,
    )
    cli_flags.whole(values, "threads", None, "CPU threads; all cores if not given", least=1)
    cli_flags.cache_dir(values)
    tta_module.define(values)
    cli_flags.place(values, "report", None, "folder for report.html and report.json")
    cli_flags.price_per_hour(values)


def main(argv: list) -> None:
    parsed = cli_flags.parse(
        "--run_dir=R [flags] | --compare [flags] R1 R2 ...",
        (define, rule_flags.define, cli_flags.define_data),
        argv,
        about=__doc__,
    )
    changes = rule_flags.changes(parsed)
    if changes and parsed.tta:
        raise cli_flags.FlagError(
            f"--tta={parsed.tta} and --{rule_flags.given(parsed)[0]}: a saved rule is for answers "
            "to the image as it is; leave one of them away"
        )
    named = runs(parsed, changes is not None)
    other = data(parsed)
    for run in named:
        run.read_recipe()
    if parsed.compare:
        compare(parsed, named, other)
    else:
        measure(parsed, named[0], other, changes)


def runs(parsed: cli_flags.Parsed, changes: bool) -> list[RunDirectory]:
    """The one that is measured, or those that are compared.

    Raises:
      FlagError: none, too few, or flags of the other way.
    """
    if not parsed.compare:
        if parsed.words:
            raise cli_flags.FlagError(f"{parsed.words[0]!r} is no flag; runs follow --compare")
        if not parsed.run_dir:
            raise cli_flags.FlagError(
                "--run_dir is missing; give the directory that bin/train wrote"
            )
        if parsed.price_per_hour is not None and not parsed.report:
            raise cli_flags.FlagError(
                "--price_per_hour has no use without --report; give --report=DIR, or leave it away"
            )
        return [RunDirectory(Path(parsed.run_dir))]
    of_one = ("run_dir", "report", "price_per_hour")
    useless = [name for name in of_one if getattr(parsed, name) is not None]
    if useless or changes:
        name = [*useless, *rule_flags.given(parsed)][0]
        raise cli_flags.FlagError(f"--{name} has no use with --compare; leave one of them away")
    if len(parsed.words) < 2:
        raise cli_flags.FlagError(
            "--compare takes two runs or more; name their directories after it, as "
            "--compare runs/a runs/b"
        )
    return [RunDirectory(Path(word)) for word in parsed.words]


def data(parsed: cli_flags.Parsed) -> DataSpec | None:
    """Other data than the runs' own, if flags name some.

    Raises:
      FlagError: flags of such data, and none named.
    """
    other = cli_flags.data_spec(parsed)
    stray = sorted(set(parsed.given) & set(cli_flags.DATA))
    if stray and not other:
        raise cli_flags.FlagError(f"--{stray[0]} goes with other data; name it, as with --data_dir")
    return other


def measure(
    parsed: cli_flags.Parsed,
    run: RunDirectory,
    other: DataSpec | None,
    changes: rule_flags.Changes | None,
) -> None:
    if parsed.report:  # before anything is measured or saved
        from engine.report import write

        write.refuse(Path(parsed.report))
    # A rule belongs to one model: while it is found out, no other takes that one's place.
    with RunLock(run) if changes else nullcontext():
        threads = tensorflow_setup.start_tensorflow(parsed.threads)
        from engine.commands import measure as measure_module

        found = measure_module.measure(run, measure_module.asked(parsed, other, threads), changes)
    show = format_metrics.print_json if parsed.format == "json" else format_metrics.print_table
    show(found)
    if parsed.report:
        from engine.commands import reporting

        page = reporting.after_evaluating(parsed, run, found, other)
        measure_module.complain(f"report: {page}")


def compare(parsed: cli_flags.Parsed, named: list[RunDirectory], other: DataSpec | None) -> None:
    threads = tensorflow_setup.start_tensorflow(parsed.threads)
    from engine.commands import compare as compare_module
    from engine.commands import measure as measure_module

    made = compare_module.rows(named, measure_module.asked(parsed, other, threads))
    show = compare_module.print_json if parsed.format == "json" else compare_module.print_table
    show(made)
