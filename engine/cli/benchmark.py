"""Measures this machine: each stage of a run, the whole, and others who do the same job."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from engine.benchmark import baselines as peer_programs
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.core.errors import UserError, choose
from engine.core.files import write, write_image
from engine.core.recipe import PRECISIONS, Recipe
from engine.models.backbones import BACKBONES
from engine.runtime import tensorflow_setup

VARIED = ("batch_sizes", "precisions", "backbones")
# What each way to use this program reads, of the flags that it has beside those of a run.
READ = {
    "": (*VARIED, "repeats", "predict", "out", "instance_type", "price_per_hour"),
    "peers": ("repeats", "seeds", "ways", "target_accuracy"),
    "compare": ("plot",),
    "self_test": (),
}


def define(values: flags.FlagValues) -> None:
    text = flags.DEFINE_string
    text("batch_sizes", None, "several, as 16,32,64; the recipe's if not given", values)
    text("precisions", None, f"several of {', '.join(PRECISIONS)}", values)
    text("backbones", None, "several, as efficientnet_lite0,resnet50", values)
    cli_flags.whole(values, "repeats", 5, "of each measurement", least=1)
    flags.DEFINE_bool("predict", False, "bin/predict --out in place of the phases", values)
    what = "the JSON file to write, or a folder for one named after the machine"
    cli_flags.place(values, "out", None, what)
    text("instance_type", None, "of the cloud; asked of its metadata service if not given", values)
    cli_flags.price_per_hour(values)
    flags.DEFINE_bool("compare", False, "compare the result files that follow", values)
    cli_flags.place(values, "plot", None, "with --compare: write the comparison as PNG")
    flags.DEFINE_bool("peers", False, "the same job through Keras, taking turns", values)
    cli_flags.whole(
        values, "seeds", 1, "with --peers: runs of each, to compare whole runs", least=0
    )
    text("ways", "fit,blog", "with --peers: whose whole runs, of fit and blog", values)
    cli_flags.number(values, "target_accuracy", 0.985, "with --peers: what a run has to reach")
    flags.DEFINE_bool("self_test", False, "check in a minute that all works on this device", values)


def main(argv: list[str]) -> None:
    parsed = cli_flags.parse(
        "[flags] | --compare [--plot=FILE.png] RESULT.json ...",
        (*cli_flags.RUN, define),
        argv,
        cli_train.names(),
        __doc__,
    )
    if parsed.words and not parsed.compare:
        raise cli_flags.FlagError(f"{parsed.words[0]!r} is no flag; result files follow --compare")
    way = _way(parsed)
    if way == "compare":
        compare(parsed)
    elif way == "self_test":
        self_test(parsed)
    elif way == "peers":
        peers(parsed, cli_flags.recipe(parsed))
    else:
        measure(parsed, cli_flags.recipe(parsed))


def _way(parsed: cli_flags.Parsed) -> str:
    """Which of the ways was asked for; a flag that belongs to another one is a mistake."""
    ways = [name for name in READ if name and getattr(parsed, name)]
    if len(ways) > 1:
        raise cli_flags.FlagError(f"--{ways[0]} and --{ways[1]}; allowed: one of them")
    way = ways[0] if ways else ""
    for name in parsed.given:
        readers = [
            f"with --{one}" if one else "alone" for one, read in READ.items() if name in read
        ]
        if readers and name not in READ[way]:
            place = f"with --{way}" if way else "here"
            raise cli_flags.FlagError(
                f"--{name} has no use {place}; it goes {' or '.join(readers)}"
            )
    if parsed.batch_size == cli_flags.AUTO:
        raise cli_flags.FlagError(
            "--batch_size=auto is for bin/train; measure several: --batch_sizes"
        )
    return way


def compare(parsed: cli_flags.Parsed) -> None:
    from engine.benchmark import compare, report

    if not parsed.words:
        raise cli_flags.FlagError(
            "--compare: no file is named; give what bin/benchmark --out wrote"
        )
    reports = [report.load(Path(word)) for word in parsed.words]
    print(compare.compare(reports))
    if parsed.plot:
        write_image(Path(parsed.plot), compare.plot(reports), "plot")


def self_test(parsed: cli_flags.Parsed) -> None:
    threads = tensorflow_setup.start_tensorflow(parsed.threads, deterministic=True)
    from engine.commands import self_test as self_test_module

    failed = [name for name, good in self_test_module.run(threads) if not good]
    if failed:
        raise UserError(f"self test: {', '.join(failed)} failed on this machine")


@cli_flags.as_flag_errors()
def variants(parsed: cli_flags.Parsed, recipe: Recipe) -> list[Recipe]:
    """The recipe with each combination of the backbones, batch sizes and precisions named."""
    sizes = [_whole(word) for word in cli_flags.words(parsed.batch_sizes)] or [recipe.batch_size]
    found = []
    for backbone in cli_flags.words(parsed.backbones) or [recipe.backbone]:
        entry = choose(backbone, BACKBONES, "--backbones: backbone")
        own = (entry.image_size, entry.image_size)
        changes: dict[str, Any] = {"image_size": parsed.image_size or own, "backbone": backbone}
        if backbone != recipe.backbone:  # its stages have other names
            opened = [{"head": "head", "all": "all"}.get(p.trainable) for p in recipe.phases]
            changes["phases"] = tuple(
                dataclasses.replace(phase, trainable=reach or entry.opened)
                for phase, reach in zip(recipe.phases, opened, strict=True)
            )
        for precision in cli_flags.words(parsed.precisions) or [recipe.precision]:
            found += [
                dataclasses.replace(recipe, **changes, precision=precision, batch_size=size)
                for size in sizes
            ]
    return found


def _whole(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise cli_flags.FlagError(f"--batch_sizes: {word!r}; allowed: whole numbers, as 16,32,64")
    return int(word)


def measure(parsed: cli_flags.Parsed, recipe: Recipe) -> None:
    recipes = variants(parsed, recipe)
    threads = tensorflow_setup.start_tensorflow(parsed.threads, recipe.deterministic)

    from engine.benchmark import cloud, report
    from engine.runtime import hardware

    rows = []
    for variant in recipes:
        with tempfile.TemporaryDirectory() as folder:
            for row in _measured(parsed, variant, threads, Path(folder)):
                rows.append(row)
                print(report.explain(row), file=sys.stderr)
    made = report.Report(
        machine=hardware.describe_machine(),
        software=hardware.describe_software(),
        instance_type=parsed.instance_type or cloud.instance_type(),
        price_per_hour=parsed.price_per_hour,
        when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(["bin/benchmark", *sys.argv[1:]]),
        rows=tuple(rows),
    )
    print(report.table(made))
    if parsed.out:
        path = Path(parsed.out)
        if parsed.out.endswith(os.sep) or path.is_dir():
            path = path / report.file_name(made)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, made.to_json().encode())
        print(f"written to {path}")


def _measured(
    parsed: cli_flags.Parsed, recipe: Recipe, threads: int, folder: Path
) -> Iterator[Any]:
    """The rows of a recipe: of each phase, or of prediction."""
    from engine.benchmark import measure as measuring
    from engine.commands import benchmark_baselines, benchmark_predict

    if parsed.predict:
        yield benchmark_predict.row(
            recipe, threads, tensorflow_setup.prefetch_device(), folder, parsed.repeats
        )
        return
    job = benchmark_baselines.job(parsed, recipe, threads, folder)
    for phase in recipe.phases:
        if phase.epochs:
            yield measuring.row(job, phase, parsed.repeats)


def peers(parsed: cli_flags.Parsed, recipe: Recipe) -> None:
    with cli_flags.as_flag_errors():
        for way in cli_flags.words(parsed.ways):
            choose(way, peer_programs.WAYS, "--ways: way")
    threads = tensorflow_setup.start_tensorflow(parsed.threads, recipe.deterministic)
    from engine.commands import benchmark_baselines

    with tempfile.TemporaryDirectory() as folder:
        for line in benchmark_baselines.duels(parsed, recipe, threads, Path(folder)):
            print(line, flush=True)
        if parsed.seeds:
            for line in benchmark_baselines.races(parsed, recipe, Path(folder)):
                print(line, flush=True)
