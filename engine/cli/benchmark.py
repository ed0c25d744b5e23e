"""Measures this machine: each stage of a run, the whole, and Keras baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags

from engine.benchmark import compare, report
from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli import train as cli_train
from engine.cli.flag_types import (
    AUTO,
    Names,
    WholeNumbers,
    define,
    define_options,
    define_path,
    define_switch,
)
from engine.cli.parsed_flags import FlagError, ParsedFlags, as_flag_errors
from engine.commands.benchmark import BenchmarkOptions, benchmark, now
from engine.commands.compare_baselines import (
    BaselineOptions,
    compare_baselines,
    comparison_json,
)
from engine.core.errors import UserError, choose
from engine.core.files import write_output
from engine.core.options import declared_options
from engine.core.recipe import PRECISIONS, Recipe
from engine.models.backbones import BACKBONES

VARIED = ("batch_sizes", "precisions", "backbones")
# The flags that each mode reads, beside those of a run.
MODES: dict[str, Collection[str]] = {
    "": (*VARIED, "out", *declared_options(BenchmarkOptions)),
    "compare_baselines": ("backbones", "out", *declared_options(BaselineOptions)),
    "compare": ("plot",),
    "self_test": (),
}


def define_benchmark(values: flags.FlagValues) -> None:
    text = "several; default: the recipe's"
    define(values, "batch_sizes", None, WholeNumbers(), text)
    text = f"several of {', '.join(PRECISIONS)}; default: the recipe's"
    define(values, "precisions", None, Names(), text)
    define(values, "backbones", None, Names(), "several, as efficientnet_lite0,resnet50")
    text = "the JSON file to write, or a folder for one named after the machine"
    define_path(values, "out", None, text)
    define_switch(values, "compare", False, "compare the result files that follow")
    define_path(values, "plot", None, "with --compare: write the comparison as PNG")
    define_switch(values, "compare_baselines", False, "compare with plain Keras, in turn")
    text = "check in a minute that all works on this device"
    define_switch(values, "self_test", False, text)
    for kind in (BenchmarkOptions, BaselineOptions):
        define_options(values, kind)


def main(argv: list[str]) -> None:
    usage = "[flags] | --compare [--plot=FILE.png] RESULT.json ..."
    groups = (*cli_flags.RUN, define_benchmark)
    parsed = command_line.parse(usage, groups, argv, cli_train.names(), __doc__)
    if parsed.arguments and not parsed.compare:
        raise FlagError(f"{parsed.arguments[0]!r} is no flag; result files follow --compare")
    mode = _mode(parsed)
    if mode == "compare":
        compare_results(parsed)
    elif mode == "self_test":
        self_test(parsed)
    elif mode == "compare_baselines":
        compare_with_baselines(parsed, cli_main.command_text(argv))
    else:
        measure(parsed, cli_main.command_text(argv))


def _mode(parsed: ParsedFlags) -> str:
    """
    Raises:
      FlagError: two modes, or a flag that the mode does not read.
    """
    modes = [name for name in MODES if name and getattr(parsed, name)]
    if len(modes) > 1:
        raise FlagError(f"--{modes[0]} and --{modes[1]}; allowed: one of them")
    mode = modes[0] if modes else ""
    for name in parsed.set_flags():
        readers = [
            f"with --{one}" if one else "alone" for one, read in MODES.items() if name in read
        ]
        if readers and name not in (*MODES[mode], "threads"):
            place = f"with --{mode}" if mode else "here"
            raise FlagError(f"--{name} has no use {place}; it goes {' or '.join(readers)}")
    if parsed.batch_size == AUTO:
        raise FlagError("--batch_size=auto is for training; measure several: --batch_sizes")
    out = parsed.out
    if out and not (out.is_dir() or out.suffix == ".json" or not (out.suffix or out.exists())):
        raise FlagError(f"--out={out}; allowed: a file that ends in .json, or a folder")
    return mode


def compare_results(parsed: ParsedFlags) -> None:
    if not parsed.arguments:
        raise FlagError("--compare: no file is named; give what --out wrote")
    reports = [report.load(Path(word)) for word in parsed.arguments]
    print(compare.compare(reports))
    if parsed.plot:
        write_output(parsed.plot, compare.plot(reports), "plot")


def self_test(parsed: ParsedFlags) -> None:
    from engine.commands.self_test import self_test

    failed = self_test(parsed.threads, print)
    if failed:
        raise UserError(f"self test: {', '.join(failed)} failed on this machine")


def compare_with_baselines(parsed: ParsedFlags, command: str) -> None:
    """Compares, prints a line at a time, and writes the result file."""
    shared = _recipe_and_cache(parsed)
    rows = []
    for recipe in variants(parsed, shared.pop("recipe")):
        options = parsed.options(BaselineOptions, recipe=recipe, **shared)
        for row in compare_baselines(options, cli_main.log):
            print(row, flush=True)
            rows.append(row)
    when = now()
    write_result(parsed, ("baselines", when), comparison_json(rows, when, command))


def write_result(parsed: ParsedFlags, name: tuple[str, str], text: str) -> None:
    """Writes the file that `--out` names, or one in that folder called after `name`."""
    if parsed.out:
        path = parsed.out
        if path.suffix != ".json" or path.is_dir():
            path = path / report.file_name(*name)
        write_output(path, text.encode(), "out")
        print(f"written to {path}")


def measure(parsed: ParsedFlags, command: str) -> None:
    """Measures, prints the table, and writes the result file."""
    shared = _recipe_and_cache(parsed)
    recipes = tuple(variants(parsed, shared.pop("recipe")))
    options = parsed.options(BenchmarkOptions, recipes=recipes, command=command, **shared)
    result = benchmark(options, cli_main.log)
    print(report.format_table(result))
    write_result(parsed, (report.machine_label(result), result.when), result.to_json())


def _recipe_and_cache(parsed: ParsedFlags) -> dict[str, Any]:
    cache = cli_flags.cache_options(parsed, parsed.cache_memory)
    return {"recipe": cli_flags.build_recipe(parsed), "cache": cache}


@as_flag_errors()
def variants(parsed: ParsedFlags, recipe: Recipe) -> list[Recipe]:
    """The recipe with each combination of the named backbones, batch sizes and precisions."""
    sizes = parsed.batch_sizes or [recipe.batch_size]
    precisions = parsed.precisions or [recipe.precision]
    recipes = []
    for backbone in parsed.backbones or [recipe.backbone]:
        entry = choose(backbone, BACKBONES, "--backbones: backbone")
        own = (entry.image_size, entry.image_size)
        changes: dict[str, Any] = {"image_size": parsed.image_size or own, "backbone": backbone}
        if backbone != recipe.backbone:  # its stages have other names
            changes["phases"] = tuple(
                phase
                if phase.trainable in ("head", "all", "norms")
                else dataclasses.replace(phase, trainable=entry.fine_tune_from)
                for phase in recipe.phases
            )
        recipes += [
            dataclasses.replace(recipe, **changes, precision=precision, batch_size=size)
            for precision in precisions
            for size in sizes
        ]
    return recipes
