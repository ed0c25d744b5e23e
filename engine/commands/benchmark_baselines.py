"""What bin/benchmark measures: jobs made ready, duels of parts, races of whole programs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from engine.benchmark import keras_comparison as pairs
from engine.benchmark import measure
from engine.benchmark import time_to_accuracy as courses
from engine.benchmark.rows import Rate
from engine.benchmark.timing import Work, alternate, ratio
from engine.cli import flags as cli_flags
from engine.commands import training_data
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory, claim_directory
from engine.training.state import TrainJob
from pipelines.augment import augment
from pipelines.decode import decode
from pipelines.loading import batches
from pipelines.sources import class_folders, reader, sources
from pipelines.sources.examples import Examples

OURS = "bin/train"
ROOT = str(Path(__file__).resolve().parents[2])


class Quiet:
    """A watch that says nothing but the notes, on the error stream."""

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def step(self, moment: Any) -> None:
        pass

    def epoch(self, row: Any, evaluation: Any, best: bool) -> None:
        pass

    def end(self) -> None:
        pass


def job(parsed: cli_flags.Parsed, recipe: Recipe, threads: int, folder: Path) -> TrainJob:
    """The recipe's job in a run directory of its own."""
    run = RunDirectory(folder / "run")
    claim_directory(run, recipe, overwrite=True)
    cache = cli_flags.cache_options(parsed, parsed.cache_memory).location()
    made, loader, more = training_data.prepare_model_and_data(recipe, run, cache, threads, Quiet())
    return TrainJob(recipe, made, loader, augment.compose(recipe.augment), run, Quiet(), **more)


def duels(parsed: cli_flags.Parsed, recipe: Recipe, threads: int, folder: Path) -> Iterator[str]:
    """A line for each part that is measured against plain Keras or a bare pipeline."""
    made = job(parsed, recipe, threads, folder)
    yield f"{pairs.same_job(recipe)}; ratios: median of {parsed.repeats} rounds (quartiles)"
    augmented = False
    for phase in (phase for phase in recipe.phases if phase.epochs):
        bench = measure.prepare(made, phase)
        batch = next(iter(made.loader.split_batches("train", [0])))
        if not augmented:
            augmented = True
            if pair := pairs.augmentation(bench, batch):
                yield line("augmentation / Keras layers", pair, parsed.repeats)
            yield from _inputs(made, threads, parsed.repeats)
        if bench.stage.partition.frozen:
            what = f"{phase.name}: frozen part / Keras"
            yield line(what, pairs.forward(bench, batch), parsed.repeats)
        yield line(f"{phase.name}: update / Keras", pairs.update(bench, batch), parsed.repeats)
        yield line(f"{phase.name}: loop / bare step", pairs.loop(bench), 2 * parsed.repeats)


def line(what: str, pair: tuple[Work, Work], repeats: int) -> str:
    samples = alternate(dict(zip(("ours", "theirs"), pair, strict=True)), repeats)
    ours, theirs = (Rate.of(samples[name]) for name in ("ours", "theirs"))
    times = ratio(samples["ours"], samples["theirs"])
    return (
        f"{what:36} {ours.median:9,.0f} / {theirs.median:9,.0f} images/s = {times.median:7.3g} x "
        f"({times.low:.3g} to {times.high:.3g})"
    )


def _inputs(made: TrainJob, threads: int, repeats: int) -> Iterator[str]:
    """Batches from files and from the pixel cache, against decoding with nothing else attached."""
    examples, recipe = sources.load_examples(made.recipe.data).subset("train"), made.recipe
    loader = batches.ImageDataLoader(examples, recipe, threads)
    steps = min(made.steps_per_epoch, max(1, 2000 // recipe.batch_size))
    images = steps * recipe.batch_size
    alone = Work(lambda: drain(bare(examples, recipe, threads).take(steps)), images)
    files = Work(lambda: drain(loader.train_batches(0, steps)), images)
    yield line("input from files / bare decoding", (files, alone), repeats)
    kept = Work(lambda: drain(made.loader.train_batches(0, steps)), images)
    yield line("input in use / bare decoding", (kept, alone), repeats)


def bare(examples: Examples, recipe: Recipe, threads: int) -> tf.data.Dataset:
    fetch = reader.make_reader(examples)
    dataset = tf.data.Dataset.range(len(examples)).repeat()
    dataset = dataset.map(
        lambda number: decode.decode(fetch(number), *recipe.image_size, recipe.resize),
        num_parallel_calls=reader.IMAGES_PER_THREAD * threads,  # as ours
    )
    dataset = dataset.batch(recipe.batch_size).prefetch(batches.PREFETCHED_BATCHES)
    return dataset.with_options(reader.dataset_options(threads))


def drain(items: Any) -> None:
    for _ in items:
        pass


def races(parsed: cli_flags.Parsed, recipe: Recipe, folder: Path) -> Iterator[str]:
    """Whole runs from process start, taking turns, until an evaluation reaches the target."""
    target = parsed.target_accuracy
    examples = sources.load_examples(recipe.data)
    for part in ("train", "validation"):
        class_folders.write_class_folders(examples.subset(part), folder / "images" / part)
    found: dict[str, list[courses.Course]] = {n: [] for n in (OURS, *cli_flags.words(parsed.ways))}
    for seed, name in itertools.product(range(parsed.seeds), found):
        seeded = dataclasses.replace(recipe, seed=recipe.seed + seed)
        command = _command(parsed, seeded, name, folder / f"{name.replace('/', '_')}_{seed}")
        course = courses.run(command, target, {"PYTHONPATH": ROOT})
        found[name].append(course)
        yield f"seed {seeded.seed}, {name}: {_in_words(course, target)}"
    yield from _compared(found, target)


def _command(parsed: cli_flags.Parsed, recipe: Recipe, name: str, folder: Path) -> list[str]:
    if name != OURS:
        images = folder.parent / "images"
        task = {
            "way": name,
            "train_dir": str(images / "train"),
            "validation_dir": str(images / "validation"),
            "recipe": to_json(recipe),
        }
        return [sys.executable, "-m", "engine.benchmark.baselines", json.dumps(task)]
    own = ("run_dir", "cache_dir", "seed")
    flags = parsed.as_flags(name for name in cli_flags.of_a_run() if name not in own)
    places = [f"--run_dir={folder / 'run'}", f"--cache_dir={folder / 'cache'}"]
    return [
        sys.executable,
        "-m",
        "engine.cli",
        "train",
        *flags,
        *places,
        f"--seed={recipe.seed}",
        "--noreport",
    ]


def _in_words(course: courses.Course, target: float) -> str:
    reached = course.reached(target)
    best = max(accuracy for _, accuracy in course.epochs)
    if reached is None:
        return f"did not reach {target:.1%} in {len(course.epochs)} epochs (best {best:.2%})"
    return (
        f"{target:.1%} in epoch {len(course.epochs)}, {reached - course.reading:.1f} s after the "
        f"first read, {reached:.1f} s after process start"
    )


def _compared(found: dict[str, list[courses.Course]], target: float) -> Iterator[str]:
    """Medians of all seeds against those of bin/train."""
    for what, value in (
        ("first read to target", lambda c: (c.reached(target) or float("inf")) - c.reading),
        ("process start to target", lambda c: c.reached(target) or float("inf")),
    ):
        seconds = {name: sorted(map(value, each)) for name, each in found.items()}
        ours = statistics.median(seconds[OURS])
        for name, each in seconds.items():
            median = statistics.median(each)
            line = (
                f"{what:24} {name:10} {_time(median):>10} ({_time(each[0])} to {_time(each[-1])})"
            )
            both = math.isfinite(ours) and math.isfinite(median)
            yield f"{line}, {median / ours:5.1f} x {OURS}" if both else line


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "never"
