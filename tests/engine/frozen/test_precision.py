"""Precisions: what is tried, what is chosen, and that nothing stays as a trial left it."""

from __future__ import annotations

import re
from contextlib import suppress

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.frozen import precision
from engine.frozen.precision import (
    GRADIENT_TOLERANCE,
    MIN_SPEEDUP,
    TOLERANCE,
    ComputeMode,
    PrecisionTrial,
    choose_trial,
    format_trials,
    override_dtype_policy,
    relative_distance,
)
from engine.models import classifier
from engine.models.backbones import SCALINGS
from tests.engine import small

HALVES = ("mixed_bfloat16", "mixed_float16")
FLOAT32, BFLOAT16, FLOAT16 = (ComputeMode(name) for name in ("float32", *HALVES))


def trials(*rows) -> list[PrecisionTrial]:
    """rows: (mode, images per second, distance)"""
    return [PrecisionTrial(*row) for row in rows]


def test_fastest_mode_is_chosen():
    done = trials((FLOAT32, 100, 0), (BFLOAT16, 150, 0.01), (FLOAT16, 250, 0.01))
    assert choose_trial(done) is done[2]
    assert choose_trial([done[0], done[2], done[1]]) is done[2]


@pytest.mark.parametrize("faster", [0.5, 1.0, MIN_SPEEDUP - 0.01, MIN_SPEEDUP + 0.01])
def test_later_mode_has_to_be_clearly_faster(faster):
    done = trials((FLOAT32, 100, 0), (BFLOAT16, 100 * faster, 0.01))
    assert choose_trial(done) is done[faster > MIN_SPEEDUP]


@pytest.mark.parametrize("far", [TOLERANCE * 1.01, 1.0, float("inf"), float("nan")])
def test_mode_out_of_tolerance_is_never_chosen(far):
    done = trials((FLOAT32, 1, 0), (BFLOAT16, 1e6, far), (FLOAT16, 2, TOLERANCE))
    assert choose_trial(done) is done[2]
    assert choose_trial(done[:2]) is done[0]


@pytest.mark.parametrize("far", [GRADIENT_TOLERANCE * 1.01, float("nan")])
def test_mode_with_distant_gradients_is_never_chosen(far):
    near, distant = (PrecisionTrial(BFLOAT16, 9, 0.0, d) for d in (GRADIENT_TOLERANCE, far))
    first = PrecisionTrial(FLOAT32, 1, 0)
    assert choose_trial([first, near]) is near
    assert choose_trial([first, distant]) is first
    assert format_trials([first, near])[1].endswith(
        "distance 0.0e+00, of gradients 2.0e-01  chosen"
    )


def test_formatted_trials_mark_the_chosen_one():
    done = trials(
        (FLOAT32, 195.4, 0),
        (BFLOAT16, 550, 0.0312),
        (FLOAT16, 900, 3),
        (ComputeMode("mixed_bfloat16", xla=True), 560, 0.0312),
    )
    rows = [re.split(r" {2,}", line.strip()) for line in format_trials(done)]
    assert rows == [
        ["float32", "195 images/s", "distance 0.0e+00"],
        ["bfloat16", "550 images/s", "distance 3.1e-02", "chosen"],
        ["float16", "900 images/s", "distance 3.0e+00", "too far from float32"],
        ["bfloat16, XLA", "560 images/s", "distance 3.1e-02"],
    ]
    places = {line.index("images/s") for line in format_trials(done)}
    assert len(places) == 1, "in columns"


NUMBERS = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([[3, 1], [0, 4]], [[3, 0], [0, 4]], 0.2),
        (*NUMBERS, np.sqrt(((NUMBERS[0] - NUMBERS[1]) ** 2).sum() / (NUMBERS[1] ** 2).sum())),
        ([0, 0], [0, 0], 0),
        ([1, 1], [0, 0], 1),
    ],
)
def test_relative_distance_is_over_all_numbers(one, other, expected):
    arrays = np.array(one, np.float32), np.array(other, np.float32)
    assert relative_distance(*arrays) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("other", [0.0, 1.0])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_non_finite_output_is_out_of_tolerance(number, other):
    one, other = (np.full(3, value, np.float32) for value in (number, other))
    assert not PrecisionTrial(BFLOAT16, 1, relative_distance(one, other)).within_tolerance


@pytest.mark.parametrize("gradients", [False, True])
def test_trials_compare_first_tensors_and_all_gradients_with_the_first_mode(gradients):
    inputs = np.arange(1.0, 6.0, dtype=np.float32)
    calls = []

    def compile_mode(mode):
        def function(batch):
            assert batch is inputs
            calls.append(mode)
            return [tf.cast(batch, mode.dtype) / 3, *map(tf.constant, ([3.0], [4.0, len(calls)]))]

        return function

    done = precision.run_trials([FLOAT32, BFLOAT16], compile_mode, inputs, gradients)
    assert [trial.mode for trial in done] == [FLOAT32, BFLOAT16]
    assert {calls.count(mode) for mode in (FLOAT32, BFLOAT16)} == {precision.REPEATS}
    assert all(trial.images_per_second > 0 for trial in done)
    exact, rounded = inputs / 3, np.array(tf.cast(tf.cast(inputs, "bfloat16") / 3, tf.float32))
    expected = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert done[0].distance == done[0].gradient_distance == 0
    assert done[1].distance == pytest.approx(expected, rel=1e-4)
    assert done[1].gradient_distance == pytest.approx(gradients * 26**-0.5)


def on(monkeypatch, gpu: tuple | None = None, flags: str = ""):
    """As if there were a GPU of this compute capability, or a processor with these flags."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["gpu"] * bool(gpu))
    details = {"compute_capability": gpu}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    text = f"processor: 0\nflags\t\t: fpu {flags}\n"
    monkeypatch.setattr(precision.Path, "read_text", lambda *_: text)


@pytest.mark.parametrize(
    ("gpu", "flags", "expected"),
    [
        (None, "", []),
        (None, "avx2 avx512f", []),
        (None, "avx512f avx512_bf16", ["bfloat16"]),
        (None, "amx_bf16", ["bfloat16"]),
        (None, "svebf16", ["bfloat16"]),
        (None, "avx512_fp16", []),
        ((6, 1), "avx512_bf16", []),
        ((7, 5), "", ["float16"]),
        ((8, 0), "", ["bfloat16", "float16"]),
        ((9, 0), "", ["bfloat16", "float16"]),
    ],
)
def test_half_precision_dtypes_of_the_hardware(monkeypatch, gpu, flags, expected):
    on(monkeypatch, gpu, flags)
    assert precision.half_precision_dtypes() == expected


@pytest.mark.parametrize(
    ("gpu", "changes", "expected"),
    [
        (None, {}, [FLOAT32, BFLOAT16]),
        (None, {"precision": "float32"}, [FLOAT32]),
        (None, {"precision": "mixed_float16"}, [FLOAT16]),
        (None, {"xla": "on"}, [ComputeMode("float32", True), ComputeMode("mixed_bfloat16", True)]),
        (
            (8, 6),
            {},
            [FLOAT32, BFLOAT16, FLOAT16, *(ComputeMode(p, True) for p in ("float32", *HALVES))],
        ),
        ((8, 6), {"xla": "off"}, [FLOAT32, BFLOAT16, FLOAT16]),
        ((8, 6), {"precision": "float32"}, [FLOAT32, ComputeMode("float32", True)]),
        ((8, 6), {"precision": "mixed_bfloat16", "xla": "off"}, [BFLOAT16]),
    ],
)
def test_recipe_modes_are_those_of_recipe_and_machine(monkeypatch, gpu, changes, expected):
    on(monkeypatch, gpu, "avx512_bf16")
    assert precision.recipe_modes(small.recipe(**changes)) == expected


@pytest.mark.parametrize(
    ("gpu", "kinds", "tried"),
    [
        (None, ["Conv2D", "Dense"], 2),
        (None, ["SeparableConv2D", "DepthwiseConv2D"], 2),
        (None, None, 1),
        ((8, 0), ["DepthwiseConv2D"], 2),
        ((8, 0), None, 2),
    ],
)
def test_head_alone_trains_in_float32_on_a_cpu(monkeypatch, gpu, kinds, tried):
    on(monkeypatch, gpu)
    arguments = {"Dense": (3,), "DepthwiseConv2D": (1,)}
    layers = [getattr(keras.layers, kind)(*arguments.get(kind, (3, 1))) for kind in kinds or ()]
    tail = keras.Sequential([keras.Input((4, 4, 2)), *layers]) if kinds else None
    modes = [FLOAT32, BFLOAT16]
    assert precision.training_modes(modes, tail) == modes[:tried]


def dtypes(model) -> dict[str, str]:
    return {layer.name: layer.compute_dtype for layer in model.layers}


@pytest.mark.parametrize("policy", HALVES)
def test_layers_compute_in_the_policy_except_the_float32_ones(policy):
    net = small.network()
    with override_dtype_policy(net.model, policy):
        within = dtypes(net.model)
        assert {variable.dtype for variable in net.model.weights} == {"float32"}
    assert within["scale"] == within["pool"] == "float32"
    half = policy.removeprefix("mixed_")
    assert within["low_conv"] == within["top_norm"] == within["top"] == half
    assert set(dtypes(net.model).values()) == {"float32"}


def test_layers_of_inner_models_compute_in_the_policy():
    inner = keras.Sequential([keras.layers.Rescaling(2.0), keras.layers.Dense(3)])
    pixels = keras.Input((4,))
    model = keras.Model(pixels, inner(pixels))
    with override_dtype_policy(model, "mixed_bfloat16"):
        assert [layer.compute_dtype for layer in inner.layers] == ["float32", "bfloat16"]
        assert model(np.ones((1, 4))).dtype == tf.bfloat16
    assert {layer.compute_dtype for layer in inner.layers} == {"float32"}


def test_policies_are_restored_after_an_error():
    net = small.network(hidden_units=4)
    net.model.get_layer("top_conv").dtype_policy = "mixed_float16"
    before = dtypes(net.model)
    assert before["top_conv"] == "float16"
    with suppress(InterruptedError), override_dtype_policy(net.model, "mixed_bfloat16"):
        assert dtypes(net.model)["top_conv"] == "bfloat16"
        raise InterruptedError
    assert dtypes(net.model) == before


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pixels_are_scaled_in_float32(scaling):
    """Between whole grey levels too, which bfloat16 would round away."""
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, classifier.scale(pixels, SCALINGS[scaling]))
    images = np.random.default_rng(1).uniform(0, 255, (1, 4, 4, 3)).astype(np.float32)
    expected = model(images)
    with override_dtype_policy(model, "mixed_bfloat16"):
        assert np.array_equal(model(images), expected)
