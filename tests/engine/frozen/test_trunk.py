"""A trunk made into a program of its own: the same network, fixed, in any precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.frozen import trunk
from engine.frozen.precision import ComputeMode
from engine.models import batchnorm_folding, freezing
from engine.models.backbones import BACKBONES
from tests.engine import small
from tests.engine.models.test_batchnorm_folding import apart
from tests.engine.models.test_freezing import FAMILIES, OTHERS, above, below, build

FLOAT32 = ComputeMode()
# Relative distance from float32. A number is rounded by up to 2**-8 in bfloat16 and by 2**-11 in
# float16. A hundred roundings, each its own way, make up to ten times that, 0.04 and 0.005; random
# weights, which average less out than trained ones, may double it.
BOUNDS = {"mixed_bfloat16": 0.1, "mixed_float16": 0.02}


@pytest.fixture(scope="module")
def family(request):
    """The trunk below the network's default stage, pixels, and what the model makes of them."""
    net = build(request.param)
    small.enliven(net.model)
    cut = freezing.partition_model(net, BACKBONES[request.param].opened)
    pixels = small.smooth_images(net.model.input.shape[1])
    yield cut.trunk, pixels, below(cut.trunk, pixels)
    keras.backend.clear_session()


def distances(outputs: list, expected: list) -> list[float]:
    floats = [tf.cast(output, tf.float32) for output in outputs]
    return [apart(one, other) for one, other in zip(floats, expected, strict=True)]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS], indirect=True)
def test_a_specialised_trunk_is_the_model(family):
    model, pixels, expected = family
    outputs = trunk.compile_frozen(model, FLOAT32)(pixels)
    assert [output.dtype for output in outputs] == [tf.float32] * len(expected)
    assert max(distances(outputs, expected)) < 1e-4


@pytest.mark.parametrize("policy", BOUNDS)
@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_in_half_precision_it_is_close(family, policy):
    """Not of the others: the deeper it is, the more a network with random weights blows it up."""
    model, pixels, expected = family
    outputs = trunk.compile_frozen(model, ComputeMode(policy))(pixels)
    found = distances(outputs, expected)
    assert max(found) < BOUNDS[policy]
    assert min(found) > BOUNDS[policy] / 100, "else it was not computed in half precision"
    # All networks end a stage in layers that are not held in float32.
    assert {output.dtype.name for output in outputs} == {policy.removeprefix("mixed_")}


@pytest.mark.parametrize(
    ("name", "trainable", "count"),
    [("nasnet_mobile", "reduction_concat_stem_2", 5), ("inception_v3", "mixed9_1", 2)],
)
def test_several_tensors_come_in_the_order_that_the_tail_takes_them_in(name, trainable, count):
    net = build(name)
    small.enliven(net.model)
    cut = freezing.partition_model(net, trainable)
    pixels = small.smooth_images(net.model.input.shape[1])
    outputs = trunk.compile_frozen(cut.trunk, FLOAT32)(pixels)
    assert len(outputs) == count
    expected = keras.Model(net.model.input, net.vector)(pixels, training=False)
    assert apart(above(cut.tail, outputs), expected) < 1e-4


@pytest.fixture
def plain() -> keras.Model:
    """A convolution that is folded, a normalisation and a convolution that can't be, a slope."""
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


@pytest.fixture(params=[0, 2**16], ids=["held", "constant"])
def _sizes(request, monkeypatch):
    """Programs whose values are variables of their own, but for the smallest, and constants."""
    monkeypatch.setattr(trunk, "MAX_CONSTANT", request.param)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("traced", [True, False])
def test_later_changes_of_the_variables_are_not_seen(plain, policy, traced):
    """Neither by a program that has run nor by one that is yet to be traced."""
    pixels = small.smooth_images(small.SIDE)
    expected = trunk.compile_frozen(plain, ComputeMode(policy))(pixels)[0].numpy()
    program = trunk.compile_frozen(plain, ComputeMode(policy))
    if traced:
        program(pixels)
    for variable in plain.weights:
        old = variable.numpy()
        variable.assign(old + 0.5)
        assert np.array_equal(program(pixels)[0], expected), variable.path
        changed = trunk.compile_frozen(plain, ComputeMode(policy))(pixels)[0]
        assert not np.array_equal(changed, expected), variable.path
        variable.assign(old)


def test_only_what_is_large_is_held_apart(plain, monkeypatch):
    sizes = sorted(variable.shape.num_elements() for variable in plain.weights)
    largest = sizes[-1]
    monkeypatch.setattr(trunk, "MAX_CONSTANT", largest - 1)
    program = trunk.compile_frozen(plain, FLOAT32)
    held = program.get_concrete_function().variables
    assert sorted(variable.shape.num_elements() for variable in held) == [4, largest]  # bias


def test_held_values_and_constants_give_the_same(plain, monkeypatch):
    pixels = small.smooth_images(small.SIDE)
    constant = trunk.compile_frozen(plain, FLOAT32)(pixels)[0]
    monkeypatch.setattr(trunk, "MAX_CONSTANT", 0)
    assert apart(trunk.compile_frozen(plain, FLOAT32)(pixels)[0], constant) < 1e-6


def test_a_sum_with_two_readers_compiles_without_an_error(capfd):
    """As in Xception and NASNet: the sum's ReLU is one of them, a sum further on the other."""
    pixels = keras.Input((small.SIDE, small.SIDE, 3))
    x = keras.layers.Conv2D(8, 1)(pixels)
    for _ in range(3):
        y = keras.layers.Activation("relu")(x)
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(y))
        x = keras.layers.Add()([y, x])
    model = keras.Model(pixels, x)
    small.enliven(model)
    images = small.smooth_images(small.SIDE)
    outputs = trunk.compile_frozen(model, FLOAT32)(images)[0]
    assert apart(outputs, below(model, images)[0]) < 1e-5
    assert "remapper" not in capfd.readouterr().err


def test_it_takes_batches_of_any_size_with_one_trace(plain):
    program = trunk.compile_frozen(plain, FLOAT32)
    pixels = small.smooth_images(small.SIDE)
    for count in (8, 3, 1):
        assert program(pixels[:count])[0].shape[0] == count
    assert program.experimental_get_tracing_count() == 1


def test_xla_gives_the_same(plain):
    pixels = small.smooth_images(small.SIDE)
    compiled = trunk.compile_frozen(plain, ComputeMode(xla=True))
    assert apart(compiled(pixels)[0], below(plain, pixels)[0]) < 1e-5


def test_the_model_computes_in_float32_as_before(plain):
    pixels = small.smooth_images(small.SIDE)
    before = below(plain, pixels)[0]
    trunk.compile_frozen(plain, ComputeMode("mixed_bfloat16"))(pixels)
    assert np.array_equal(below(plain, pixels)[0], before)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
