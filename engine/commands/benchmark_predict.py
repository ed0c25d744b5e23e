"""bin/benchmark --predict: images answered into a file, against what that is made of."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from engine.benchmark.rows import PREDICT, Rate, Row
from engine.benchmark.timing import Work, alternate
from engine.commands import benchmark_baselines
from engine.core.recipe import Recipe
from engine.frozen.precision import ComputeMode
from engine.inference import batch_predict, predict, predictor
from engine.inference.predictions_file import PredictionsFile, PredictionsRequest
from engine.inference.predictor import Predictor
from engine.models import classifier
from engine.runtime import hardware
from pipelines.predict.find_images import stretch
from pipelines.predict.image_stream import ImageStream
from pipelines.sources import sources
from pipelines.sources.examples import WHOLE_FILE, Examples

IMAGES = 3000  # of a sample at most; at each of its ends the pipeline fills up, and runs dry


def row(recipe: Recipe, threads: int, device: str | None, folder: Path, repeats: int) -> Row:
    """Decoding, the network and the whole, of the recipe's training images."""
    hardware.reset_peak_memory()
    examples = sources.load_examples(recipe.data)
    files = examples.take(examples.lengths == WHOLE_FILE)
    files = files.take(np.arange(min(len(files), IMAGES)))
    made = classifier.build(recipe, len(examples.classes))
    model = predictor.of_classifier(recipe, made, examples.classes)
    size = (model.image_size, model.resize)
    stream = ImageStream([os.fspath(path) for path in files.paths], *size, threads, device=device)
    model = _chosen(model, recipe, stream)
    samples = alternate(_works(model, recipe, stream, files, folder), repeats)
    rates = {name: Rate.of(each) for name, each in samples.items()}
    return Row(
        backbone=recipe.backbone,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        precision=model.program.policy,
        phase=PREDICT,
        stages={name: rates[name] for name in ("input", "trunk")},
        whole=rates["whole"],
        shares_cores=not tf.config.list_physical_devices("GPU"),
        peak_memory=hardware.peak_memory(),
    )


def _chosen(model: Predictor, recipe: Recipe, stream: ImageStream) -> Predictor:
    if recipe.precision != "auto":
        return predictor.in_program(model, ComputeMode(recipe.precision))
    groups = stream.groups(recipe.batch_size)
    return batch_predict.fastest(
        model, groups, batch_predict.WORTH_TRIALS, benchmark_baselines.Quiet().note
    )[0]


def _works(
    model: Predictor, recipe: Recipe, stream: ImageStream, files: Examples, folder: Path
) -> dict[str, Work]:
    count, batch_size = len(files), recipe.batch_size
    bare = benchmark_baselines.bare(files, recipe, stream.threads).take(-(-count // batch_size))
    images = next(iter(bare))
    calls = max(1, min(20, count // batch_size))

    def whole() -> None:
        order = PredictionsRequest({}, (), {"top": 1}, tuple(stream.places), replaces=True)
        path, length = folder / "answers.csv", stretch(batch_size)
        with PredictionsFile(path, order, batch_size, length, going_on=False) as file:
            file.begin(dataclasses.asdict(model.program))
            for group in stream.groups(batch_size):
                file.add(predict.answers(model, group, batch_size, 1))
            file.finish()

    return {
        "input": Work(
            lambda: benchmark_baselines.drain(bare), -(-count // batch_size) * batch_size
        ),
        "trunk": Work(
            lambda: [model.probabilities(images).numpy() for _ in range(calls)], calls * batch_size
        ),
        "whole": Work(whole, count),
    }
