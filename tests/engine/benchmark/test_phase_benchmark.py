"""The measured stages of a small job, and the pairs compared with Keras."""

from __future__ import annotations

import inspect
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.benchmark import keras_comparison, phase_benchmark, timing
from engine.benchmark.measurement import efficiency, explain
from engine.benchmark.phase_benchmark import PhaseBenchmark
from engine.core.call_syntax import parse_calls
from engine.core.dataset import Batch
from engine.frozen.array_store import CacheBudget
from engine.training.job import TrainJob
from pipelines.augment.changes import AUGMENTATIONS
from tests.engine.small_runs import Watcher, make_job, small_recipe

SGD = "all(trainable=all, epochs=1, optimizer=sgd, learning_rate=1e-2)"
CASES = {
    "head": ("head(epochs=1)", {"input", "augment", "trunk", "tail"}),
    "cached": ("head(epochs=3, views=1)", {"input", "tail"}),
    "all": (SGD, {"input", "augment", "tail"}),
}


@pytest.fixture(autouse=True)
def short_samples(monkeypatch):
    for module in (timing, phase_benchmark):
        monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.01)


@pytest.fixture
def job(coloured, tmp_path):
    """Makes a job of one phase."""

    def job_of(phase: str, **changes) -> TrainJob:
        recipe = small_recipe(coloured, (phase,), precision="float32", dropout=0.0, **changes)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        settings = {"cache_budget": CacheBudget(2**26), "steps_per_execution": None}
        return make_job(recipe, tmp_path / "run", Watcher(), **settings)

    return job_of


@pytest.fixture
def prepare(job):
    """Prepares the phase of a job; returns its benchmark and a batch of images."""

    def prepared(phase: str, **changes) -> tuple[PhaseBenchmark, Batch]:
        train_job = job(phase, **changes)
        benchmark = phase_benchmark.prepare(train_job, train_job.recipe.phases[0])
        return benchmark, next(iter(train_job.loader.split_batches("train", [0])))

    return prepared


@pytest.mark.parametrize("case", CASES)
def test_measure_phase_has_stages_of_phase(job, case):
    phase, stages = CASES[case]
    train_job = job(phase)
    row = phase_benchmark.measure_phase(train_job, train_job.recipe.phases[0], 2)
    assert set(row.stages) == stages
    assert row.shares_cores == (not tf.config.list_physical_devices("GPU"))
    assert row.peak_memory["host"] > 50e6
    assert 0.1 < efficiency(row) < 10
    assert explain(row)


def test_keras_update_equals_ours(prepare):
    start, updates = None, []
    for which in (0, 1):
        benchmark, batch = prepare(SGD)
        benchmark.trainer.steps_per_execution.steps = 1
        weights = benchmark.job.classifier.model.weights
        start = start or [weight.numpy() for weight in weights]
        for weight, old in zip(weights, start, strict=True):
            weight.assign(old)
        keras_comparison.update(benchmark, batch)[which].run()
        updates.append([weight.numpy() - old for weight, old in zip(weights, start, strict=True)])
    assert max(np.abs(change).max() for change in updates[0]) > 1e-5
    for one, other in zip(*updates, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_keras_forward_equals_ours(prepare):
    benchmark, batch = prepare("head(epochs=1)")
    ours = benchmark.trainer.frozen_forward.plain(batch.inputs)[0]
    theirs = benchmark.trainer.partition.trunk(tf.cast(batch.inputs, tf.float32), training=False)
    theirs = theirs[0] if isinstance(theirs, list) else theirs
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    for work in keras_comparison.forward(benchmark, batch):
        work.run()


def test_keras_layers_cover_default_augmentation():
    calls = parse_calls("rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip")
    layers = keras_comparison.keras_layers(calls)
    names = ["RandomRotation", "RandomTranslation", "RandomShear", "RandomZoom", "RandomFlip"]
    assert [type(layer).__name__ for layer in layers] == names
    images = tf.cast(tf.random.stateless_uniform([2, 16, 16, 3], [1, 2]) * 255, tf.float32)
    changed = keras.Sequential(layers)(images, training=True)
    assert changed.shape == images.shape
    assert np.abs(changed - images).max() > 1


@pytest.mark.parametrize("name", keras_comparison.KERAS_LAYERS)
def test_keras_layer_takes_the_values_of_the_augmentation(name):
    ours = inspect.signature(AUGMENTATIONS[name]).parameters.values()
    theirs = inspect.signature(keras_comparison.KERAS_LAYERS[name]).parameters.values()
    assert [(p.name, p.default) for p in theirs] == [(p.name, p.default) for p in ours]


def test_keras_augmentation_without_augmentation_is_none(prepare):
    assert keras_comparison.augmentation(*prepare("head(epochs=1)", augment="none")) is None


@pytest.mark.parametrize("calls", [9, 10, 11])
def test_sample_of_uncached_images_crosses_ends_of_epochs_and_counts_its_steps(prepare, calls):
    benchmark, _ = prepare("head(epochs=3)", augment="none")
    benchmark.trainer.steps_per_execution.steps = 2
    benchmark = PhaseBenchmark(benchmark.job, benchmark.trainer, calls)
    steps = [batch.labels.shape[0] for batch in benchmark.batches()]
    assert len(steps) == calls
    assert sum(steps) == benchmark.sample > benchmark.job.steps_per_epoch
    assert set(steps) == {1, 2}, "the last call of an epoch of five steps is cut short"
