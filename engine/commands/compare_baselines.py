"""Compares training here with plain Keras: each stage, and whole runs to a target accuracy."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.benchmark import time_to_accuracy
from engine.benchmark.baselines import BASELINES
from engine.benchmark.measurement import Rate
from engine.benchmark.time_to_accuracy import TimedRun
from engine.benchmark.timing import Workload, measure_in_turn, speed_ratio
from engine.commands.benchmark import NoteLogger, decode_only, drain, repeats_option
from engine.commands.shared_options import CacheOptions, Log, ProcessOptions, ignore
from engine.core.errors import choose
from engine.core.options import option
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import hardware, tensorflow_setup

if TYPE_CHECKING:
    from engine.training.job import TrainJob

OURS = "bin/train"
ROOT = str(Path(__file__).resolve().parents[2])


@dataclasses.dataclass(frozen=True)
class BaselineOptions(ProcessOptions):
    """What is compared with the baselines."""

    recipe: Recipe
    repeats: int = repeats_option()
    seeds: int = option(
        1, "with --compare_baselines: whole runs of each program; 0 for none", minimum=0
    )
    baselines: tuple[str, ...] = option(
        tuple(BASELINES),
        "with --compare_baselines: whose whole runs are timed, of " + ", ".join(BASELINES),
    )
    target_accuracy: float = option(
        0.985,
        "with --compare_baselines: the validation accuracy that a whole run is to reach",
        minimum=0,
    )
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.baselines:
            choose(name, BASELINES, "--baselines: baseline")


@dataclasses.dataclass(frozen=True)
class StageComparison:
    """Images/s of a stage here and there, and the ratios of the rounds."""

    backbone: str
    stage: str
    ours: Rate
    theirs: Rate
    ratio: Rate

    def __str__(self) -> str:
        ours, theirs, ratio = self.ours.median, self.theirs.median, self.ratio
        return (
            f"{self.stage:36} {ours:9,.0f} / {theirs:9,.0f} images/s = {ratio.median:7.3g} x "
            f"({ratio.low:.3g} to {ratio.high:.3g})"
        )


@dataclasses.dataclass(frozen=True)
class WholeRun:
    """A program trained until an evaluation reached the target, or to its end."""

    program: str
    seed: int
    target_accuracy: float
    run: TimedRun

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.program}: {_describe(self.run, self.target_accuracy)}"


def compare_baselines(
    options: BaselineOptions, log: Log = ignore
) -> Iterator[str | StageComparison | WholeRun]:
    """Yields comparisons of stages, whole runs, and lines with their medians.

    Raises:
      UserError: images or weights are not there.
    """
    threads = tensorflow_setup.start_tensorflow(
        options.threads, options.recipe.deterministic, log=log
    )
    from engine.commands.training_data import prepare_job

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = RunDirectory(folder / "run")
        claim_directory(run, options.recipe, overwrite=False)
        job = prepare_job(options.recipe, run, options.cache, threads, NoteLogger(log))
        yield from _compare_stages(job, threads, options.repeats)
        if options.seeds:
            yield from _time_to_accuracy(options, folder)


def comparison_json(rows: Iterable[Any], when: str, command: str) -> str:
    """Returns what `compare_baselines` yields, less its lines of text, as a JSON file."""
    rows = list(rows)
    kinds: dict[str, Any] = {"stages": StageComparison, "runs": WholeRun}
    values = {
        "machine": hardware.describe_machine(),
        "software": hardware.describe_software(),
        "when": when,
        "command": command,
        **{
            name: [dataclasses.asdict(row) for row in rows if isinstance(row, kind)]
            for name, kind in kinds.items()
        },
    }
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _compare_stages(job: TrainJob, threads: int, repeats: int) -> Iterator[str | StageComparison]:
    """Yields each stage compared with plain Keras or decoding alone, after a title."""
    from engine.benchmark import keras_comparison, phase_benchmark

    recipe, (height, width) = job.recipe, job.recipe.image_size
    yield (
        f"{recipe.backbone} at {height}x{width}, batch {recipe.batch_size}; "
        f"ratios: median of {repeats} rounds (quartiles)"
    )
    phases = [phase for phase in job.recipe.phases if phase.epochs]
    for phase in phases:
        benchmark = phase_benchmark.prepare(job, phase)
        batch = next(iter(job.loader.split_batches("train", [0])))
        if phase is phases[0]:
            if pair := keras_comparison.augmentation(benchmark, batch):
                yield _ratio(recipe, "augmentation / Keras layers", pair, repeats)
            yield from _compare_input(job, threads, repeats)
        if benchmark.trainer.partition.frozen:
            pair = keras_comparison.forward(benchmark, batch)
            yield _ratio(recipe, f"{phase.name}: frozen layers / Keras", pair, repeats)
        pair = keras_comparison.update(benchmark, batch)
        yield _ratio(recipe, f"{phase.name}: update / Keras", pair, repeats)
        pair = keras_comparison.loop(benchmark)
        yield _ratio(recipe, f"{phase.name}: loop / bare step", pair, 2 * repeats)


def _ratio(
    recipe: Recipe, stage: str, pair: tuple[Workload, Workload], repeats: int
) -> StageComparison:
    samples = measure_in_turn(dict(zip(("ours", "theirs"), pair, strict=True)), repeats)
    ours, theirs = (Rate.of(samples[name]) for name in ("ours", "theirs"))
    ratio = speed_ratio(samples["ours"], samples["theirs"])
    return StageComparison(recipe.backbone, stage, ours, theirs, ratio)


def _compare_input(job: TrainJob, threads: int, repeats: int) -> Iterator[StageComparison]:
    """Compares batches from files and from the pixel cache with decoding alone."""
    from pipelines.loading import batches
    from pipelines.sources import sources

    recipe = job.recipe
    examples = sources.load_examples(recipe.data).subset("train")
    loader = batches.ImageDataLoader(examples, recipe, threads)
    steps = min(job.steps_per_epoch, max(1, 2000 // recipe.batch_size))
    images = steps * recipe.batch_size
    decoding = Workload(lambda: drain(decode_only(examples, recipe, threads).take(steps)), images)
    files = Workload(lambda: drain(loader.train_batches(0, steps)), images)
    yield _ratio(recipe, "input from files / bare decoding", (files, decoding), repeats)
    cached = Workload(lambda: drain(job.loader.train_batches(0, steps)), images)
    yield _ratio(recipe, "input in use / bare decoding", (cached, decoding), repeats)


def _time_to_accuracy(options: BaselineOptions, folder: Path) -> Iterator[str | WholeRun]:
    """Times whole runs, in turn, from process start until an evaluation reaches the target."""
    from pipelines.sources import class_folders, sources

    target = options.target_accuracy
    examples = sources.load_examples(options.recipe.data)
    for split in ("train", "validation"):
        class_folders.write_class_folders(examples.subset(split), folder / "images" / split)
    timed_runs: dict[str, list[TimedRun]] = {name: [] for name in (OURS, *options.baselines)}
    for seed, name in itertools.product(range(options.seeds), timed_runs):
        recipe = dataclasses.replace(options.recipe, seed=options.recipe.seed + seed)
        run_folder = folder / f"{name.replace('/', '_')}_{seed}"
        command = _train_command(options, recipe, run_folder) if name == OURS else None
        command = command or _baseline_command(name, recipe, folder / "images")
        run = time_to_accuracy.run(command, target, {"PYTHONPATH": ROOT})
        timed_runs[name].append(run)
        yield WholeRun(name, recipe.seed, target, run)
    yield from _medians(timed_runs, target)


def _train_command(options: BaselineOptions, recipe: Recipe, folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "seeded.json").write_text(to_json(recipe), "utf-8")
    arguments = {
        "recipe": folder / "seeded.json",
        "run_dir": folder / "run",
        "cache_dir": folder / "cache",
        "cache_memory": options.cache.memory,
        "threads": options.threads,
    }
    flags = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
    return [sys.executable, "-m", "engine.cli", "train", "--noreport", *flags]


def _baseline_command(name: str, recipe: Recipe, images: Path) -> list[str]:
    folders = [str(images / split) for split in ("train", "validation")]
    return [sys.executable, "-m", "engine.benchmark.baselines", name, *folders, to_json(recipe)]


def _describe(run: TimedRun, target: float) -> str:
    seconds = run.seconds_to(target)
    best = max(accuracy for _, accuracy in run.epochs)
    if seconds is None:
        return f"did not reach {target:.1%} in {len(run.epochs)} epochs (best {best:.2%})"
    return (
        f"{target:.1%} in epoch {len(run.epochs)}, {seconds - run.first_read:.1f} s after the "
        f"first read, {seconds:.1f} s after process start"
    )


def _medians(timed_runs: dict[str, list[TimedRun]], target: float) -> Iterator[str]:
    """Yields the medians over the seeds, and their ratios to those of bin/train."""
    for title, seconds_of in (
        ("first read to target", lambda run: (run.seconds_to(target) or math.inf) - run.first_read),
        ("process start to target", lambda run: run.seconds_to(target) or math.inf),
    ):
        seconds = {name: sorted(map(seconds_of, runs)) for name, runs in timed_runs.items()}
        ours = statistics.median(seconds[OURS])
        for name, each in seconds.items():
            median = statistics.median(each)
            spread = f"({_seconds(each[0])} to {_seconds(each[-1])})"
            line = f"{title:24} {name:20} {_seconds(median):>10} {spread}"
            finite = math.isfinite(ours) and math.isfinite(median)
            yield f"{line}, {median / ours:5.1f} x {OURS}" if finite else line


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "never"
