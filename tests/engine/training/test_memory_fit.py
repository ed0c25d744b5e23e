"""Which errors mean out of memory, and that every phase is tried."""

from __future__ import annotations

import pytest
import tensorflow as tf

from engine.training import memory_fit, train_step
from pipelines.augment import augmentations
from tests.engine.small_runs import small_recipe


def exhausted(text: str) -> tf.errors.OpError:
    return tf.errors.ResourceExhaustedError(None, None, text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exhausted("OOM when allocating tensor with shape[64,3]"), True),
        (tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory"), True),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (exhausted("runs/x/events; No space left on device"), False),
        (exhausted("a.jpg; Too many open files"), False),
        (tf.errors.InternalError(None, None, "cuDNN failed"), False),
        (MemoryError("RESOURCE_EXHAUSTED"), False),
        (OSError("No space left on device"), False),
    ],
)
def test_out_of_memory(error, expected):
    assert memory_fit.out_of_memory(error) is expected


def test_full_disk_is_not_out_of_memory():
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        tf.io.write_file("/dev/full", tf.constant("x" * 100_000))
    assert not memory_fit.out_of_memory(caught.value)


def test_memory_fit_runs_a_step_of_every_phase(tmp_path, monkeypatch):
    tried, run_step = [], train_step.TrainStep.__call__

    def recorded(step, *columns):
        tried.append((step.phase.name, step.recipe.gradient_accumulation_steps, step.mode.dtype))
        run_step(step, *columns)

    monkeypatch.setattr(train_step.TrainStep, "__call__", recorded)
    phases = ("a(epochs=1)", "b(epochs=0)", "c(trainable=middle, epochs=3, batch_norm=train)")
    recipe = small_recipe(tmp_path, phases, gradient_accumulation_steps=2, precision="auto")
    augment, devices = augmentations.compose(recipe.augment), tf.distribute.get_strategy()
    memory_fit.try_out(recipe, "xyz", augment, devices)
    assert tried == [("a", 2, "float32"), ("c", 2, "float32")]
