"""Checks on whatever device there is, in about a minute, with small images made on the spot."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from engine.commands import benchmark_baselines
from engine.core.call_syntax import parse_calls
from engine.core.recipe import DataSpec, Recipe, parse_phase
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.precision import ComputeMode, relative_distance
from engine.models import classifier, freezing
from engine.models.batchnorm_folding import as_list
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import stateless_random
from engine.training import loop
from engine.training.state import TrainJob
from pipelines.augment import augment
from pipelines.loading import batches
from pipelines.sources import sources

AUGMENTATION = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip|brightness(0.2)|hue(10)"
PHASES = (
    "transfer(epochs=3, learning_rate=1e-2, views=2)",
    "fine_tune(trainable=block7, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
)


def run(threads: int) -> Iterator[tuple[str, bool]]:
    """Runs every check and prints a line for each; gives its name and whether it held."""
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    names = [detail.get("device_name", "CPU") for detail in details]
    print(f"on {', '.join(names)}:")
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder))
        for name, check in CHECKS.items():
            started = time.perf_counter()
            try:
                problem = check(recipe, threads)
            except Exception as error:  # the others are worth knowing all the same
                problem = f"{type(error).__name__}: {error}".split("\n")[0]
            seconds = time.perf_counter() - started
            print(
                f"  {'FAILED' if problem else 'good  '} {name}, {seconds:.0f} s  {problem}".rstrip()
            )
            yield name, not problem


def _recipe(folder: Path) -> Recipe:
    """Two classes that a small network tells apart: noise that is bluish, noise that is reddish."""
    random = np.random.default_rng(0)
    for channel, name in ((2, "blue"), (0, "red")):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(26):
            pixels = random.integers(0, 160, (36, 40, 3))
            pixels[..., channel] += 95
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "images" / name / f"{number:02}.png")
    return Recipe(
        data=DataSpec("folders", str(folder / "images"), validation_fraction=0.25),
        phases=tuple(parse_phase(text) for text in PHASES),
        backbone="efficientnet_lite0",
        image_size=(64, 64),
        augment=parse_calls(AUGMENTATION),
        dropout=0.2,
        batch_size=8,
        precision="float32",  # a measurement may come out otherwise in another run directory
    )


def augmentation_agrees_with_the_cpu(recipe: Recipe, threads: int) -> str:
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)), tf.uint8)
    changes = augment.compose(recipe.augment)
    examples = tf.range(8)
    numbers = stateless_random.uniform(
        0, stateless_random.AUGMENT, tf.zeros_like(examples), examples, changes.draws
    )
    here = changes.apply(images, numbers).numpy()
    with tf.device("CPU"):
        there = changes.apply(tf.identity(images), tf.identity(numbers)).numpy()
    apart = float(np.abs(here - there).max())
    return "" if apart < 0.1 else f"up to {apart:.2f} grey levels apart"


def the_trunk_agrees_with_the_network(recipe: Recipe, threads: int) -> str:
    split = freezing.partition_model(classifier.build(recipe, 2), "head")
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)), tf.float32)
    plain = as_list(split.trunk(pixels, training=False))[0]
    folded = trunk.compile_frozen(split.trunk, ComputeMode())(pixels)[0]
    apart = relative_distance(np.asarray(folded), np.asarray(plain))
    return "" if apart < 1e-4 else f"relative distance {apart:.1e}"


def float16_trains(recipe: Recipe, threads: int) -> str:
    phases = (dataclasses.replace(recipe.phases[0], views=None, epochs=6),)
    changed = dataclasses.replace(recipe, precision="mixed_float16", phases=phases)
    result = _train(changed, threads, Path(recipe.data.location).parent / "float16")
    accuracy = result["best"]["val_accuracy"]
    return "" if accuracy > 0.8 else f"accuracy {accuracy:.0%} on two colours"


def a_resumed_run_equals_an_undisturbed_one(recipe: Recipe, threads: int) -> str:
    folder = Path(recipe.data.location).parent
    _train(recipe, threads, folder / "whole")
    for stop in (4, 11, 17):
        try:
            _train(recipe, threads, folder / "parts", stop)
        except InterruptedError:
            continue
    _train(recipe, threads, folder / "parts")
    whole, parts = (
        checkpoints.load(RunDirectory(folder / n))[1]["model"] for n in ("whole", "parts")
    )
    moved = sum(not np.array_equal(one, other) for one, other in zip(whole, parts, strict=True))
    return f"{moved} of {len(whole)} variables differ" if moved else ""


class Stop(benchmark_baselines.Quiet):
    """Interrupts a run at a step."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def note(self, line: str) -> None:
        pass

    def step(self, moment: object) -> None:
        if getattr(moment, "step", None) == self.at:
            raise InterruptedError


def _train(recipe: Recipe, threads: int, place: Path, stop: int | None = None) -> dict:
    run = RunDirectory(place)
    claim_directory(run, recipe, overwrite=False)
    loader = batches.ImageDataLoader(sources.load_examples(recipe.data), recipe, threads)
    job = TrainJob(
        recipe=recipe,
        classifier=classifier.build(recipe, len(loader.classes)),
        loader=loader,
        augment=augment.compose(recipe.augment),
        run=run,
        logger=Stop(stop),
        cache_budget=CacheBudget(2**28),
        checkpoint_minutes=0,
        log_every_steps=1,
        steps_per_execution=1,
    )
    return loop.train(job).result


CHECKS: dict[str, Callable[[Recipe, int], str]] = {
    "augmentation compiles and agrees with the CPU": augmentation_agrees_with_the_cpu,
    "the trunk agrees with the unfolded network": the_trunk_agrees_with_the_network,
    "float16 trains": float16_trains,
    "a resumed run equals an undisturbed one": a_resumed_run_equals_an_undisturbed_one,
}
