"""Measures how fast this machine trains and predicts, stage by stage and as a whole."""

from __future__ import annotations

import dataclasses
import datetime
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.benchmark import cloud
from engine.benchmark.measurement import PREDICT, Measurement, explain
from engine.benchmark.report import Report
from engine.benchmark.timing import Workload
from engine.commands.shared_options import (
    CacheOptions,
    Log,
    ProcessOptions,
    ignore,
    price_per_hour_option,
)
from engine.core.options import option
from engine.core.recipe import Recipe
from engine.core.text import program
from engine.loggers.base import Logger
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import hardware, tensorflow_setup

if TYPE_CHECKING:
    import tensorflow as tf

    from engine.inference.predictor import Predictor
    from pipelines.predict.image_stream import ImageStream
    from pipelines.sources.examples import Examples

MAX_PREDICT_IMAGES = 3000  # in a sample, in which the pipeline fills and drains once


def repeats_option() -> Any:
    return option(5, "of each measurement", minimum=1)


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(ProcessOptions):
    """What to measure.

    recipes: in order, each with its phases.
    command: the command that the report names.
    """

    recipes: tuple[Recipe, ...]
    predict: bool = option(False, f"{program('predict')} --out in place of the phases")
    repeats: int = repeats_option()
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)
    instance_type: str | None = option(
        None, "of the cloud; default: what its metadata service says"
    )
    price_per_hour: float | None = price_per_hour_option()
    command: str = "unfreeze.benchmark(...)"


class NoteLogger(Logger):
    """A logger that passes on notes only."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def note(self, line: str) -> None:
        self._log(line)


def benchmark(options: BenchmarkOptions, log: Log = ignore) -> Report:
    """Measures every recipe, and logs for each measurement what limits it.

    Raises:
      UserError: images or weights are missing.
    """
    deterministic = options.recipes[0].deterministic
    threads = tensorflow_setup.start_tensorflow(options.threads, deterministic, log=log)
    rows = []
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as folder:
            for row in _measure(options, recipe, threads, Path(folder), log):
                rows.append(row)
                log(explain(row))
    return Report(
        machine=hardware.describe_machine(),
        software=hardware.describe_software(),
        instance_type=options.instance_type or cloud.instance_type(),
        price_per_hour=options.price_per_hour,
        when=now(),
        command=options.command,
        rows=tuple(rows),
    )


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _measure(
    options: BenchmarkOptions, recipe: Recipe, threads: int, folder: Path, log: Log
) -> Iterator[Measurement]:
    """Yields the measurements of a recipe: of each phase, or of prediction."""
    from engine.benchmark import phase_benchmark
    from engine.commands.training_data import prepare_job

    if options.predict:
        yield _measure_prediction(recipe, threads, folder, options.repeats, log)
        return
    run = RunDirectory(folder / "run")
    claim_directory(run, recipe, overwrite=False)
    job = prepare_job(recipe, run, options.cache, threads, NoteLogger(log))
    for phase in recipe.phases:
        if phase.epochs:
            yield phase_benchmark.measure_phase(job, phase, options.repeats)


def _measure_prediction(
    recipe: Recipe, threads: int, folder: Path, repeats: int, log: Log
) -> Measurement:
    """Measures predictions of the recipe's images into a file, their decoding, and the network."""
    import numpy as np

    from engine.benchmark import phase_benchmark
    from engine.inference import predictor
    from engine.models import classifier
    from pipelines.predict.image_stream import ImageStream
    from pipelines.sources import sources
    from pipelines.sources.examples import WHOLE_FILE

    hardware.reset_peak_memory()
    examples = sources.load_examples(recipe.data)
    files = examples.take(examples.lengths == WHOLE_FILE)
    files = files.take(np.arange(min(len(files), MAX_PREDICT_IMAGES)))
    network = classifier.build(recipe, len(examples.classes))
    model = predictor.from_classifier(recipe, network, examples.classes)
    stream = ImageStream(
        [os.fspath(path) for path in files.paths],
        model.image_size,
        model.resize,
        threads,
        device=tensorflow_setup.prefetch_device(),
    )
    model = _in_precision(model, recipe, stream, log)
    works = _prediction_works(model, recipe, stream, files, folder)
    return phase_benchmark.measure(recipe, model.mode.policy, PREDICT, works, repeats)


def _in_precision(model: Predictor, recipe: Recipe, stream: ImageStream, log: Log) -> Predictor:
    from engine.frozen.precision import ComputeMode
    from engine.inference.predictor import MIN_IMAGES_FOR_TRIALS, choose_fastest_mode

    if recipe.precision != "auto":
        return model.in_mode(ComputeMode(recipe.precision))
    groups = stream.groups(recipe.batch_size)
    return choose_fastest_mode(model, groups, MIN_IMAGES_FOR_TRIALS, log)[0]


def _prediction_works(
    model: Predictor, recipe: Recipe, stream: ImageStream, files: Examples, folder: Path
) -> dict[str, Workload]:
    from engine.inference.predictions import predict_group
    from engine.inference.predictions_file import PredictionsFile, PredictionsRequest

    count, batch_size = len(files), recipe.batch_size
    batches = -(-count // batch_size)
    decoded = decode_only(files, recipe, stream.threads).take(batches)
    images = next(iter(decoded))
    calls = max(1, min(20, count // batch_size))

    def predict_to_file() -> None:
        request = PredictionsRequest({}, (), {"top_k": 1}, tuple(stream.places), overwrite=True)
        with PredictionsFile(folder / "predictions.csv", request, resume=False) as file:
            file.begin(dataclasses.asdict(model.mode))
            for group in stream.groups(batch_size):
                file.add(predict_group(model, group, batch_size, 1))
            file.finish()

    return {
        "input": Workload(lambda: drain(decoded), batches * batch_size),
        "trunk": Workload(
            lambda: [model.probabilities(images).numpy() for _ in range(calls)], calls * batch_size
        ),
        "whole": Workload(predict_to_file, count),
    }


def decode_only(examples: Examples, recipe: Recipe, threads: int) -> tf.data.Dataset:
    """Returns batches of the images decoded by tf.data, and nothing else."""
    import tensorflow as tf

    from pipelines.decode import decode
    from pipelines.loading import batches
    from pipelines.sources import reader

    read = reader.make_reader(examples)
    dataset = tf.data.Dataset.range(len(examples)).repeat()
    dataset = dataset.map(
        lambda number: decode.decode(read(number), *recipe.image_size, recipe.resize),
        num_parallel_calls=reader.IMAGES_PER_THREAD * threads,  # as the data loader
    )
    dataset = dataset.batch(recipe.batch_size).prefetch(batches.PREFETCHED_BATCHES)
    return dataset.with_options(reader.dataset_options(threads))


def drain(items: Iterable[Any]) -> None:
    for _ in items:
        pass
