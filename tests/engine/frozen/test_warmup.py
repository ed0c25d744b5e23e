"""The first phase's frozen layers, compiled beside other work: the same program, compiled once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.frozen import precision, trunk, warmup
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.models import freezing
from tests.engine import small

HEAD, TOP = Phase("transfer"), Phase("fine_tune", trainable="top")
PIXELS = tf.cast(small.batch().inputs, tf.float32)


def recipe(**changes):
    settings = {"image_size": (small.SIDE, small.SIDE), "batch_size": 6, "phases": (HEAD,)}
    return small.recipe(**{**settings, **changes})


@pytest.fixture
def compiled_on(monkeypatch) -> list[tuple[ComputeMode, str]]:
    """The modes that were compiled, each with the thread's name."""
    compiled, compile_frozen = [], trunk.compile_frozen

    def recorded(model, mode):
        compiled.append((mode, threading.current_thread().name))
        return compile_frozen(model, mode)

    monkeypatch.setattr(trunk, "compile_frozen", recorded)
    return compiled


@pytest.fixture
def classifier():
    return small.network()


def warm(classifier, phases=(HEAD,), **changes) -> warmup.Warmup:
    with warmup.compile_in_background(classifier, recipe(**changes), phases) as found:
        pass
    return found


def take(found: warmup.Warmup, classifier, phase=HEAD):
    return found.take_compiler(phase, freezing.partition_model(classifier, phase.trainable))


def test_modes_are_compiled_on_the_thread_and_taken_from_it(classifier, compiled_on):
    modes = precision.recipe_modes(recipe())
    found = warm(classifier)
    assert compiled_on == [(mode, "warm-up") for mode in modes]
    compile_mode = take(found, classifier)
    for mode in modes:
        assert compile_mode(mode) is compile_mode(mode)
        expected = trunk.compile_frozen(freezing.partition_model(classifier, "head").trunk, mode)
        np.testing.assert_array_equal(
            *(tf.cast(f(PIXELS)[0], tf.float32).numpy() for f in (compile_mode(mode), expected))
        )
    assert len(compiled_on) == 2 * len(modes)


def test_taken_program_is_traced_for_the_batch_shape(classifier):
    function = take(warm(classifier, precision="float32"), classifier)(FLOAT32)
    before = function.experimental_get_tracing_count()
    function(PIXELS)
    assert function.experimental_get_tracing_count() == before == 1


def test_program_is_taken_once_since_training_changes_weights(classifier, compiled_on):
    found = warm(classifier, precision="float32")
    first = take(found, classifier)(FLOAT32)
    classifier.model.weights[0].assign_add(tf.ones_like(classifier.model.weights[0]))
    second = take(found, classifier)(FLOAT32)
    assert not np.array_equal(first(PIXELS)[0], second(PIXELS)[0])
    assert [thread for _, thread in compiled_on] == ["warm-up", "MainThread"]


def test_other_phases_and_modes_are_compiled_on_demand(classifier, compiled_on):
    found = warm(classifier, precision="float32")
    take(found, classifier, TOP)(FLOAT32)
    take(found, classifier)(ComputeMode("mixed_bfloat16"))
    assert [thread for _, thread in compiled_on] == ["warm-up", "MainThread", "MainThread"]


@pytest.mark.parametrize("phases", [(), (Phase("whole", trainable="all"),)])
def test_nothing_is_compiled_without_a_frozen_phase(classifier, compiled_on, phases):
    warm(classifier, phases=phases)
    assert compiled_on == []


def test_failure_on_the_thread_is_compiled_again(classifier, monkeypatch):
    compile_frozen, modes = trunk.compile_frozen, []

    def fails_first(model, mode):
        modes.append(mode)
        if len(modes) == 1:
            raise RuntimeError
        return compile_frozen(model, mode)

    monkeypatch.setattr(trunk, "compile_frozen", fails_first)
    take(warm(classifier, precision="float32"), classifier)(FLOAT32)(PIXELS)
    assert len(modes) == 2


def test_block_waits_for_the_thread_even_when_it_fails(classifier):
    with (
        pytest.raises(KeyError),
        warmup.compile_in_background(classifier, recipe(), (HEAD,)),
    ):
        raise KeyError
    assert all(thread.name != "warm-up" for thread in threading.enumerate())
