"""A compiled trunk: the same network with fixed values, in any precision."""

import keras
import numpy as np
import pytest

from engine.core.recipe import Phase
from engine.frozen import precision, trunk
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.models import batchnorm_folding, freezing
from tests.engine import small
from tests.engine.backbone_families import (
    build,
    images_for,
    relative_error,
    run_tail,
    run_trunk,
    slow,
)

IMAGES = small.smooth_images(small.SIDE)


@pytest.mark.parametrize(
    ("name", "trainable", "count"),
    [
        ("inception_v3", "mixed9_1", 2),
        *(
            pytest.param(*param.values, "reduction_concat_stem_2", 5, marks=param.marks)
            for param in slow(["nasnet_mobile"])
        ),
    ],
)
def test_tensors_come_in_the_order_of_the_tail_inputs(name, trainable, count):
    network = build(name)
    small.enliven(network.model)
    partition, images = freezing.partition_model(network, trainable), images_for(network)
    outputs = trunk.compile_frozen(partition.trunk, FLOAT32)(images)
    assert len(outputs) == count
    expected = keras.Model(network.model.input, network.vector)(images, training=False)
    assert relative_error(run_tail(partition.tail, outputs), expected) < 1e-4


@pytest.fixture
def plain() -> keras.Model:
    """A convolution that is folded, a normalization and a convolution that can't be, a slope."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((small.SIDE, small.SIDE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    x = keras.layers.BatchNormalization(name="folded_norm")(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.BatchNormalization(name="lone_norm")(keras.layers.ReLU()(x))
    x = keras.layers.PReLU()(keras.layers.Conv2D(5, 1)(x))
    model = keras.Model(pixels, x)
    small.enliven(model)
    assert len(batchnorm_folding.foldable_pairs(model)) == 1
    return model


@pytest.mark.parametrize("max_constant", [0, 2**16], ids=["variables", "constants"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_later_changes_of_variables_do_not_reach_the_program(
    plain, monkeypatch, max_constant, policy
):
    """Neither a program that has run nor one that is yet to be traced."""
    monkeypatch.setattr(trunk, "MAX_CONSTANT", max_constant)
    traced, untraced = (trunk.compile_frozen(plain, ComputeMode(policy)) for _ in range(2))
    expected = traced(IMAGES)[0].numpy()
    for variable in plain.weights:
        old = variable.numpy()
        variable.assign(old + 0.5)
        assert np.array_equal(traced(IMAGES)[0], expected), variable.path
        assert np.array_equal(untraced(IMAGES)[0], expected), variable.path
        changed = trunk.compile_frozen(plain, ComputeMode(policy))(IMAGES)[0]
        assert not np.array_equal(changed, expected), variable.path
        variable.assign(old)


def test_only_large_values_are_variables(plain, monkeypatch):
    largest = max(variable.shape.num_elements() for variable in plain.weights)
    monkeypatch.setattr(trunk, "MAX_CONSTANT", largest - 1)
    program = trunk.compile_frozen(plain, FLOAT32)  # it owns the variables
    variables = program.get_concrete_function().variables
    assert sorted(v.shape.num_elements() for v in variables) == [4, largest]  # 4: a bias


def test_variables_and_constants_give_the_same_outputs(plain, monkeypatch):
    constants = trunk.compile_frozen(plain, FLOAT32)(IMAGES)[0]
    monkeypatch.setattr(trunk, "MAX_CONSTANT", 0)
    assert relative_error(trunk.compile_frozen(plain, FLOAT32)(IMAGES)[0], constants) < 1e-6


def test_sum_with_two_readers_compiles_without_an_error(capfd):
    """As in Xception and NASNet: the sum's ReLU is one of them, a sum further on the other."""
    pixels = keras.Input((small.SIDE, small.SIDE, 3))
    x = keras.layers.Conv2D(8, 1)(pixels)
    for _ in range(3):
        y = keras.layers.Activation("relu")(x)
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(y))
        x = keras.layers.Add()([y, x])
    model = keras.Model(pixels, x)
    small.enliven(model)
    outputs = trunk.compile_frozen(model, FLOAT32)(IMAGES)[0]
    assert relative_error(outputs, run_trunk(model, IMAGES)[0]) < 1e-5
    assert "remapper" not in capfd.readouterr().err


def test_batches_of_any_size_share_one_trace(plain):
    program = trunk.compile_frozen(plain, FLOAT32)
    for count in (8, 3, 1):
        assert program(IMAGES[:count])[0].shape[0] == count
    assert program.experimental_get_tracing_count() == 1


def test_xla_gives_the_same_outputs(plain):
    compiled = trunk.compile_frozen(plain, ComputeMode(xla=True))
    assert relative_error(compiled(IMAGES)[0], run_trunk(plain, IMAGES)[0]) < 1e-5


def compile_ahead(network, phases):
    return trunk.compile_ahead(network, small.recipe(image_size=(small.SIDE, small.SIDE)), phases)


def test_every_mode_of_a_phase_is_compiled_ahead(monkeypatch):
    network, modes = small.network(), [FLOAT32, ComputeMode("mixed_bfloat16")]
    monkeypatch.setattr(precision, "half_precision_dtypes", lambda: ["bfloat16"])
    compiled = compile_ahead(network, (Phase("transfer"),))
    assert list(compiled) == [("transfer", mode) for mode in modes]
    for mode in modes:
        expected = trunk.compile_frozen(freezing.partition_model(network, "head").trunk, mode)
        actual = compiled["transfer", mode]
        assert np.array_equal(actual(IMAGES)[0], expected(IMAGES)[0])


@pytest.mark.parametrize("phases", [(), (Phase("whole", trainable="all"),)])
def test_nothing_is_compiled_ahead_without_frozen_layers(phases):
    assert compile_ahead(small.network(), phases) == {}


def test_failure_ahead_leaves_the_trunk_to_its_phase(monkeypatch):
    monkeypatch.setattr(trunk, "compile_frozen", None)
    assert compile_ahead(small.network(), (Phase("transfer"),)) == {}


def test_model_itself_stays_float32(plain):
    before = run_trunk(plain, IMAGES)[0]
    trunk.compile_frozen(plain, ComputeMode("mixed_bfloat16"))(IMAGES)
    assert np.array_equal(run_trunk(plain, IMAGES)[0], before)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
