"""The first phase's frozen part, compiled beside other work: the same program, made once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.frozen import precision, trunk, warmup
from engine.frozen.precision import ComputeMode
from engine.models import freezing
from tests.engine import small

PHASE = Phase("transfer")
PIXELS = tf.cast(small.batch().inputs, tf.float32)


def recipe(**changes):
    settings = {"image_size": (small.SIDE, small.SIDE), "batch_size": 6, "phases": (PHASE,)}
    return small.recipe(**{**settings, **changes})


@pytest.fixture
def specialised(monkeypatch) -> list[tuple[ComputeMode, str]]:
    """What was made into programs, and on which thread."""
    made, real = [], trunk.specialise

    def specialise(model, program):
        made.append((program, threading.current_thread().name))
        return real(model, program)

    monkeypatch.setattr(trunk, "specialise", specialise)
    return made


def compiled(classifier, phases=(PHASE,), **changes):
    with warmup.compile_meanwhile(classifier, recipe(**changes), phases) as found:
        pass
    return found


def test_the_candidates_are_made_on_the_thread_and_given_out(specialised):
    classifier = small.network()
    programs = precision.candidates(recipe())
    found = compiled(classifier)
    assert specialised == [(program, "early") for program in programs]
    make = found.make(PHASE, freezing.partition_model(classifier, "head"))
    for program in programs:
        assert make(program) is make(program)
        expected = trunk.specialise(freezing.partition_model(classifier, "head").trunk, program)
        np.testing.assert_array_equal(
            *(np.asarray(tf.cast(f(PIXELS)[0], tf.float32)) for f in (make(program), expected))
        )
    assert len(specialised) == 2 * len(programs)


def test_nothing_is_traced_for_the_batch_shape_any_more():
    classifier = small.network()
    make = compiled(classifier, precision="float32").make(
        PHASE, freezing.partition_model(classifier, "head")
    )
    function = make(ComputeMode())
    before = function.experimental_get_tracing_count()
    function(PIXELS)
    assert function.experimental_get_tracing_count() == before == 1


def test_they_are_given_out_once_since_weights_change_by_training(specialised):
    classifier = small.network()
    found = compiled(classifier, precision="float32")
    partition = freezing.partition_model(classifier, "head")
    first = found.make(PHASE, partition)(ComputeMode())
    classifier.model.weights[0].assign_add(tf.ones_like(classifier.model.weights[0]))
    second = found.make(PHASE, partition)(ComputeMode())
    assert not np.array_equal(first(PIXELS)[0], second(PIXELS)[0])
    assert [thread for _, thread in specialised] == ["early", "MainThread"]


def test_other_phases_and_programs_are_made_when_they_are_asked_for(specialised):
    classifier = small.network()
    found = compiled(classifier, precision="float32")
    found.make(Phase("fine_tune"), freezing.partition_model(classifier, "top"))(ComputeMode())
    found.make(PHASE, freezing.partition_model(classifier, "head"))(ComputeMode("mixed_bfloat16"))
    assert [thread for _, thread in specialised] == ["early", "MainThread", "MainThread"]


def test_without_phases_or_without_a_frozen_part_nothing_is_made(specialised):
    compiled(small.network(), phases=())
    compiled(small.network(), phases=(Phase("whole", trainable="all"),))
    assert specialised == []


def test_what_fails_there_is_made_anew(monkeypatch):
    real, calls = trunk.specialise, []

    def fails_first(model, program):
        calls.append(program)
        if len(calls) == 1:
            raise RuntimeError
        return real(model, program)

    monkeypatch.setattr(trunk, "specialise", fails_first)
    classifier = small.network()
    found = compiled(classifier, precision="float32")
    found.make(PHASE, freezing.partition_model(classifier, "head"))(ComputeMode())(PIXELS)
    assert len(calls) == 2


def test_the_block_waits_for_the_thread_even_when_it_fails():
    with pytest.raises(KeyError), warmup.compile_meanwhile(small.network(), recipe(), (PHASE,)):
        raise KeyError
    assert all(thread.name != "early" for thread in threading.enumerate())
