"""Two devices with half a batch each make the updates of one with the whole.

The devices are two logical ones on the CPU, which have to be made before TensorFlow starts: so both
runs are made by this file as a program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PHASES = {
    "head": ("transfer(epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",),
    "deeper": (
        "transfer(epochs=1, optimizer=sgd, learning_rate=1e-2, views=1)",
        "fine_tune(trainable=block_16, epochs=2, optimizer=adam, clip_norm=0.1)",
    ),
}


def main(folder: Path, pictures: Path, precision: str, phases: tuple[str, ...]) -> None:
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

    from engine import classifier, loop, replicas
    from engine.rundir import RunDir, claim
    from engine.stages import Job
    from engine.storage import Room
    from pipelines import augment, batches, sources
    from tests.engine.test_loop import Watcher, small_recipe

    recipe = small_recipe(pictures, phases, dropout=0.0, precision=precision)
    for name, devices in (("one", ["/cpu:0"]), ("two", ["/cpu:0", "/cpu:1"])):
        run = RunDir(folder / name)
        claim(run, recipe, overwrite=False)
        strategy = replicas.strategy(devices, recipe.batch_size)
        made = classifier.build(recipe, 2, strategy)
        feed = batches.make_feed(sources.load(recipe.data), recipe, threads=2)
        changes = augment.compose(recipe.augment)
        job = Job(recipe, made, feed, changes, run, Watcher(), room=Room(2**26))
        with strategy.scope():
            assert tf.distribute.get_strategy().num_replicas_in_sync == len(devices)
            loop.train(job)


def trained(folder: Path, pictures: Path, precision: str, phases: tuple[str, ...]) -> list:
    """Of the run on one device and of that on two: progress, and the arrays by group."""
    from engine import checkpoints
    from engine.rundir import RunDir

    command = [sys.executable, __file__, str(folder), str(pictures), precision, *phases]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [checkpoints.load(RunDir(folder / name)) for name in ("one", "two")]


@pytest.mark.parametrize("case", PHASES)
def test_two_devices_make_the_updates_of_one(coloured, tmp_path, case):
    runs = trained(tmp_path, coloured, "float32", PHASES[case])
    for group in ("model", "optimizer"):
        for one, other in zip(*(arrays[group] for _, arrays in runs), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(*(progress.history for progress, _ in runs), strict=True):
        for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert one[column] == pytest.approx(other[column], abs=1e-5)
        assert one["learning_rate"] == other["learning_rate"]


def test_float16_scales_its_loss_on_two_devices(coloured, tmp_path):
    runs = trained(tmp_path, coloured, "mixed_float16", PHASES["head"])
    for one, other in zip(*(arrays["model"] for _, arrays in runs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert [progress.phases[0]["skipped_steps"] for progress, _ in runs] == [0, 0]


def test_a_batch_that_can_not_be_divided_is_refused():
    from engine import replicas
    from engine.specs import UserError

    with pytest.raises(UserError, match=r"batch_size=9 with 2 GPUs; allowed: a multiple of 2"):
        replicas.strategy(["/gpu:0", "/gpu:1"], 9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], tuple(sys.argv[4:]))
