"""Measures this machine: each stage of a run, the whole, and Keras baselines."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from absl import flags

from engine.benchmark import compare, report
from engine.benchmark.baselines import BASELINES
from engine.cli import command_line, flag_types
from engine.cli import flags as cli_flags
from engine.cli import main as cli_main
from engine.cli import train as cli_train
from engine.commands.benchmark import BenchmarkOptions, benchmark
from engine.commands.compare_baselines import BaselineOptions, compare_baselines
from engine.core.errors import UserError, choose
from engine.core.files import write, write_image
from engine.core.recipe import PRECISIONS, Recipe
from engine.models.backbones import BACKBONES

VARIED = ("batch_sizes", "precisions", "backbones")
# The flags that each mode reads, beside those of a run.
MODES = {
    "": (*VARIED, "repeats", "predict", "out", "instance_type", "price_per_hour"),
    "compare_baselines": ("repeats", "seeds", "baselines", "target_accuracy"),
    "compare": ("plot",),
    "self_test": (),
}


def define(values: flags.FlagValues) -> None:
    text = flags.DEFINE_string
    text("batch_sizes", None, "several, as 16,32,64; default: the recipe's", values)
    text("precisions", None, f"several of {', '.join(PRECISIONS)}; default: the recipe's", values)
    text("backbones", None, "several, as efficientnet_lite0,resnet50", values)
    flag_types.define_integer(values, "repeats", 5, "of each measurement", minimum=1)
    flags.DEFINE_bool("predict", False, "bin/predict --out in place of the phases", values)
    what = "the JSON file to write, or a folder for one named after the machine"
    flag_types.define_path(values, "out", None, what)
    text("instance_type", None, "of the cloud; default: what its metadata service says", values)
    cli_flags.define_price_per_hour(values)
    flags.DEFINE_bool("compare", False, "compare the result files that follow", values)
    flag_types.define_path(values, "plot", None, "with --compare: write the comparison as PNG")
    flags.DEFINE_bool("compare_baselines", False, "compare with plain Keras, in turn", values)
    with_baselines = "with --compare_baselines:"
    what = f"{with_baselines} whole runs of each program; 0 for none"
    flag_types.define_integer(values, "seeds", 1, what, minimum=0)
    what = f"{with_baselines} whose whole runs are timed, of {', '.join(BASELINES)}"
    text("baselines", ",".join(BASELINES), what, values)
    what = f"{with_baselines} the validation accuracy that a whole run is to reach"
    flag_types.define_number(values, "target_accuracy", 0.985, what)
    flags.DEFINE_bool("self_test", False, "check in a minute that all works on this device", values)


def main(argv: list[str]) -> None:
    parsed = command_line.parse(
        "[flags] | --compare [--plot=FILE.png] RESULT.json ...",
        (*cli_flags.RUN, define),
        argv,
        cli_train.names(),
        __doc__,
    )
    if parsed.arguments and not parsed.compare:
        raise command_line.FlagError(
            f"{parsed.arguments[0]!r} is no flag; result files follow --compare"
        )
    mode = _mode(parsed)
    if mode == "compare":
        compare_results(parsed)
    elif mode == "self_test":
        self_test(parsed)
    elif mode == "compare_baselines":
        for line in compare_baselines(baseline_options(parsed), cli_main.log):
            print(line, flush=True)
    else:
        measure(parsed, cli_main.command_text(argv))


def _mode(parsed: command_line.ParsedFlags) -> str:
    """
    Raises:
      FlagError: two modes, or a flag that the mode does not read.
    """
    modes = [name for name in MODES if name and getattr(parsed, name)]
    if len(modes) > 1:
        raise command_line.FlagError(f"--{modes[0]} and --{modes[1]}; allowed: one of them")
    mode = modes[0] if modes else ""
    for name in parsed.explicit:
        readers = [
            f"with --{one}" if one else "alone" for one, read in MODES.items() if name in read
        ]
        if readers and name not in MODES[mode]:
            place = f"with --{mode}" if mode else "here"
            raise command_line.FlagError(
                f"--{name} has no use {place}; it goes {' or '.join(readers)}"
            )
    if parsed.batch_size == flag_types.AUTO:
        raise command_line.FlagError(
            "--batch_size=auto is for bin/train; measure several: --batch_sizes"
        )
    return mode


def compare_results(parsed: command_line.ParsedFlags) -> None:
    if not parsed.arguments:
        raise command_line.FlagError(
            "--compare: no file is named; give what bin/benchmark --out wrote"
        )
    reports = [report.load(Path(word)) for word in parsed.arguments]
    print(compare.compare(reports))
    if parsed.plot:
        write_image(Path(parsed.plot), compare.plot(reports), "plot")


def self_test(parsed: command_line.ParsedFlags) -> None:
    from engine.commands.self_test import self_test

    failed = self_test(parsed.threads, print)
    if failed:
        raise UserError(f"self test: {', '.join(failed)} failed on this machine")


@command_line.as_flag_errors()
def baseline_options(parsed: command_line.ParsedFlags) -> BaselineOptions:
    """
    Raises:
      FlagError: a value does not fit.
    """
    return BaselineOptions(
        recipe=cli_flags.build_recipe(parsed),
        repeats=parsed.repeats,
        seeds=parsed.seeds,
        baselines=tuple(cli_flags.split_names(parsed.baselines)),
        target_accuracy=parsed.target_accuracy,
        threads=parsed.threads,
        cache=cli_flags.cache_options(parsed, parsed.cache_memory),
    )


def measure(parsed: command_line.ParsedFlags, command: str) -> None:
    """Measures, prints the table, and writes the result file."""
    options = BenchmarkOptions(
        recipes=tuple(variants(parsed, cli_flags.build_recipe(parsed))),
        predict=parsed.predict,
        repeats=parsed.repeats,
        threads=parsed.threads,
        cache=cli_flags.cache_options(parsed, parsed.cache_memory),
        instance_type=parsed.instance_type,
        price_per_hour=parsed.price_per_hour,
        command=command,
    )
    result = benchmark(options, cli_main.log)
    print(report.format_table(result))
    if parsed.out:
        path = Path(parsed.out)
        if parsed.out.endswith(os.sep) or path.is_dir():
            path = path / report.file_name(result)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, result.to_json().encode())
        print(f"written to {path}")


@command_line.as_flag_errors()
def variants(parsed: command_line.ParsedFlags, recipe: Recipe) -> list[Recipe]:
    """The recipe with each combination of the named backbones, batch sizes and precisions."""
    sizes = [_whole(word) for word in cli_flags.split_names(parsed.batch_sizes)] or [
        recipe.batch_size
    ]
    precisions = cli_flags.split_names(parsed.precisions) or [recipe.precision]
    recipes = []
    for backbone in cli_flags.split_names(parsed.backbones) or [recipe.backbone]:
        entry = choose(backbone, BACKBONES, "--backbones: backbone")
        own = (entry.image_size, entry.image_size)
        changes: dict[str, Any] = {"image_size": parsed.image_size or own, "backbone": backbone}
        if backbone != recipe.backbone:  # its stages have other names
            changes["phases"] = tuple(
                phase
                if phase.trainable in ("head", "all")
                else dataclasses.replace(phase, trainable=entry.fine_tune_from)
                for phase in recipe.phases
            )
        recipes += [
            dataclasses.replace(recipe, **changes, precision=precision, batch_size=size)
            for precision in precisions
            for size in sizes
        ]
    return recipes


def _whole(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise command_line.FlagError(
            f"--batch_sizes: {word!r}; allowed: whole numbers, as 16,32,64"
        )
    return int(word)
