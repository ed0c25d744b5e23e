"""Checks that training works on this device, in about a minute, with generated images."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from engine.commands.benchmark import NoteLogger
from engine.commands.shared_options import CacheOptions, Log, ignore
from engine.core.call_syntax import parse_calls
from engine.core.recipe import DataSpec, Recipe, parse_phase
from engine.loggers.base import StepMetrics
from engine.runs.directory import RunDirectory, claim_directory
from engine.runtime import tensorflow_setup

AUGMENTATION = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip|brightness(0.2)|hue(10)"
PHASES = (
    "transfer(epochs=3, learning_rate=1e-2, views=2)",
    "fine_tune(trainable=block7, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
)


def self_test(threads: int | None = None, log: Log = ignore) -> list[str]:
    """Runs every check, logs a line for each, and returns the names of those that failed."""
    threads = tensorflow_setup.start_tensorflow(threads, deterministic=True)
    log(f"on {', '.join(_device_names())}:")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = _recipe(Path(folder))
        for name, check in CHECKS.items():
            started = time.perf_counter()
            try:
                problem = check(recipe, threads)
            except Exception as error:  # the result of the other checks is of use all the same
                problem = f"{type(error).__name__}: {error}".split("\n")[0]
            seconds = time.perf_counter() - started
            status = "FAILED" if problem else "passed"
            log(f"  {status} {name}, {seconds:.0f} s  {problem}".rstrip())
            failed += [name] if problem else []
    return failed


def _device_names() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    return [detail.get("device_name", "CPU") for detail in details]


def _recipe(folder: Path) -> Recipe:
    """Two classes that a small network tells apart: bluish noise and reddish noise."""
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
        precision="float32",  # a measured choice may differ between run directories
    )


def augmentation_agrees_with_cpu(recipe: Recipe, threads: int) -> str:
    import tensorflow as tf

    from engine.runtime import stateless_random
    from pipelines.augment import augmentations

    images = tf.constant(np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3)), tf.uint8)
    augmentation = augmentations.compose(recipe.augment)
    examples = tf.range(8)
    numbers = stateless_random.uniform(
        0, stateless_random.AUGMENT, tf.zeros_like(examples), examples, augmentation.draws
    )
    here = augmentation.apply(images, numbers).numpy()
    with tf.device("CPU"):
        on_cpu = augmentation.apply(tf.identity(images), tf.identity(numbers)).numpy()
    difference = float(np.abs(here - on_cpu).max())
    return "" if difference < 0.1 else f"up to {difference:.2f} grey levels apart"


def trunk_agrees_with_network(recipe: Recipe, threads: int) -> str:
    import keras
    import tensorflow as tf

    from engine.frozen import trunk
    from engine.frozen.precision import ComputeMode, relative_distance
    from engine.models import classifier, freezing

    partition = freezing.partition_model(classifier.build(recipe, 2), "head")
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)), tf.float32)
    plain = keras.tree.flatten(partition.trunk(pixels, training=False))[0]
    folded = trunk.compile_frozen(partition.trunk, ComputeMode())(pixels)[0]
    difference = relative_distance(np.asarray(folded), np.asarray(plain))
    return "" if difference < 1e-4 else f"relative distance {difference:.1e}"


def training_step_agrees_with_float32(recipe: Recipe, threads: int) -> str:
    """In every mode that a run tries here: logits, and all gradients from `block4` upward."""
    import keras
    import tensorflow as tf

    from engine.frozen import precision
    from engine.models import classifier, freezing
    from engine.training import train_step

    phase = dataclasses.replace(recipe.phases[1], trainable="block4")
    partition = freezing.partition_model(classifier.build(recipe, 2), phase.trainable)
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (8, 64, 64, 3)), tf.float32)
    boundary = keras.tree.flatten(partition.trunk(pixels, training=False))
    make_trial = functools.partial(train_step.make_trial, recipe, phase, partition)
    trials = precision.run_trials(precision.available_modes(), make_trial, boundary, gradients=True)
    return "; ".join(
        f"{trial.mode}: relative distance {trial.distance:.1e}, of gradients "
        f"{trial.gradient_distance:.1e}"
        for trial in trials
        if not trial.within_tolerance
    )


def float16_trains(recipe: Recipe, threads: int) -> str:
    phases = (dataclasses.replace(recipe.phases[0], views=None, epochs=6),)
    changed = dataclasses.replace(recipe, precision="mixed_float16", phases=phases)
    result = _train(changed, threads, Path(recipe.data.location).parent / "float16")
    accuracy = result["best"]["val_accuracy"]
    return "" if accuracy > 0.8 else f"accuracy {accuracy:.0%} on two colours"


def resumed_run_equals_uninterrupted_run(recipe: Recipe, threads: int) -> str:
    from engine.runs import checkpoints

    folder = Path(recipe.data.location).parent
    _train(recipe, threads, folder / "uninterrupted")
    for step in (4, 11, 17):
        try:
            _train(recipe, threads, folder / "resumed", step)
        except InterruptedError:
            continue
    _train(recipe, threads, folder / "resumed")
    runs = [RunDirectory(folder / name) for name in ("uninterrupted", "resumed")]
    whole, resumed = (checkpoints.load(run)[1]["model"] for run in runs)
    different = sum(not np.array_equal(*pair) for pair in zip(whole, resumed, strict=True))
    return f"{different} of {len(whole)} variables differ" if different else ""


class InterruptingLogger(NoteLogger):
    """Interrupts a run at a step."""

    def __init__(self, at: int | None) -> None:
        super().__init__(ignore)
        self.at = at

    def step(self, moment: StepMetrics) -> None:
        if moment.step == self.at:
            raise InterruptedError


def _train(recipe: Recipe, threads: int, folder: Path, interrupt_at: int | None = None) -> dict:
    from engine.commands.training_data import prepare_job
    from engine.training import loop

    run, logger = RunDirectory(folder), InterruptingLogger(interrupt_at)
    claim_directory(run, recipe, overwrite=False)
    job = prepare_job(recipe, run, CacheOptions(None, 2**28), threads, logger)
    job = dataclasses.replace(job, checkpoint_minutes=0, log_every_steps=1, steps_per_execution=1)
    return loop.train(job).result


CHECKS: dict[str, Callable[[Recipe, int], str]] = {
    "augmentation compiles and agrees with the CPU": augmentation_agrees_with_cpu,
    "the trunk agrees with the unfolded network": trunk_agrees_with_network,
    "the training step agrees with float32": training_step_agrees_with_float32,
    "float16 trains": float16_trains,
    "a resumed run equals an uninterrupted one": resumed_run_equals_uninterrupted_run,
}
