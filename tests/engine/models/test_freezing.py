"""Cuts: head(tail(trunk(x))) is the model, and the names mean what they say, in every family."""

import contextlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.utils.naming import to_snake_case

from engine.core.errors import UserError
from engine.models import classifier, freezing
from engine.models.backbones import BACKBONES
from tests.engine import small

# One of each family, at about the smallest size that it takes.
FAMILIES = {
    "efficientnet_lite0": 32,
    "inception_v3": 75,
    "inception_resnet_v2": 75,
    "xception": 71,
    "vgg16": 32,
    "resnet50": 32,
    "resnet50_v2": 32,
    "densenet121": 32,
    "mobilenet": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "nasnet_mobile": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_b0": 32,
    "convnext_tiny": 32,
}
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES if name not in FAMILIES]


def build(name: str, **changes) -> classifier.Classifier:
    side = FAMILIES.get(name, 75)
    return classifier.build(small.recipe(backbone=name, image_size=(side, side), **changes), 3)


@pytest.fixture(scope="module", params=[*FAMILIES, *OTHERS])
def family(request):
    """(name, classifier): each network is built once for all tests."""
    net = build(request.param)
    small.enliven(net.model)
    yield request.param, net
    keras.backend.clear_session()


def pixels_for(net: classifier.Classifier) -> np.ndarray:
    return small.smooth_images(net.model.inputs[0].shape[1])[:3]


def below(trunk: keras.Model, pixels: np.ndarray) -> list[np.ndarray]:
    """What crosses the cut; Keras gives a single tensor without a list around it."""
    return small.values(tf.nest.flatten(trunk(pixels, training=False)))


def above(tail: keras.Model | None, boundary: list) -> np.ndarray:
    """What the head takes; the boundary itself where there is no tail."""
    return np.array(boundary[0] if tail is None else tail(boundary, training=False))


def agrees(
    net: classifier.Classifier, cut: freezing.ModelPartition, tolerance: float = 1e-4
) -> None:
    """To rounding, against the largest logit; the logits of the three images differ by more."""
    pixels = pixels_for(net)
    expected = np.array(net.model(pixels, training=False))
    result = np.array(cut.head(above(cut.tail, below(cut.trunk, pixels))))
    assert np.ptp(expected, axis=0).max() > 10 * tolerance * np.abs(expected).max()
    assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()


def test_trunk_tail_and_head_make_the_model(family):
    name, net = family
    for trainable in ("head", "all", BACKBONES[name].opened):
        agrees(net, freezing.partition_model(net, trainable))


@pytest.mark.slow
def test_so_they_do_at_the_first_the_middle_and_the_last_stage(family):
    _, net = family
    stages = list(net.stages)
    for place in (0, len(stages) // 2, -1):
        agrees(net, freezing.partition_model(net, stages[place]))


def test_only_where_all_is_open_there_is_nothing_frozen(family):
    name, net = family
    frozen = [
        freezing.partition_model(net, place).frozen for place in ("head", BACKBONES[name].opened)
    ]
    assert frozen == [True, True]
    assert not freezing.partition_model(net, "all").frozen


def test_the_default_stage_exists(family):
    name, net = family
    assert BACKBONES[name].opened in net.stages


def test_the_lower_the_cut_the_more_is_trained(family):
    _, net = family
    stages = list(net.stages)
    some = [*stages[:: len(stages) // 3], "head"]
    cuts = [
        {id(v) for v in freezing.partition_model(net, place).variables} for place in ["all", *some]
    ]
    assert cuts[0] == {id(v) for v in net.model.trainable_variables}
    assert all(higher < frozen_forward for frozen_forward, higher in itertools.pairwise(cuts[1:]))
    assert cuts[-1] == {id(v) for v in net.head.trainable_variables}


@contextlib.contextmanager
def spoilt(layers: list):
    """All their weights are NaN for a while."""
    weights = [weight for layer in layers for weight in layer.weights]
    kept = small.values(weights)
    for weight in weights:
        weight.assign(np.full(weight.shape, np.nan))
    yield
    for weight, value in zip(weights, kept, strict=True):
        weight.assign(value)


def test_closed_weights_are_used_below_the_cut_only_and_open_ones_above(family):
    name, net = family
    cut = freezing.partition_model(net, BACKBONES[name].opened)
    pixels = pixels_for(net)
    boundary = below(cut.trunk, pixels)
    # NASNet's cells read the two before them, so a cut between cells has several tensors.
    assert (len(boundary) > 1) == name.startswith("nasnet")
    vector = above(cut.tail, boundary)
    opened = [layer for layer in net.model.layers if layer.name in cut.open_layers]
    closed = [layer for layer in net.model.layers if layer not in opened]
    with spoilt(closed):
        assert np.array_equal(above(cut.tail, boundary), vector)
        assert not np.array_equal(below(cut.trunk, pixels)[0], boundary[0])
    with spoilt(opened):
        after = below(cut.trunk, pixels)
        assert all(np.array_equal(a, b) for a, b in zip(after, boundary, strict=True))
        assert not np.array_equal(above(cut.tail, boundary), vector)


@pytest.mark.parametrize(
    ("name", "trainable", "beginnings"),
    [
        ("vgg16", "block5_pool", ("block5_conv",)),
        ("resnet50", "conv5_block1_out", ("conv5_",)),
        ("mobilenet_v2", "block_14", ("block_14_", "block_15_", "block_16_", "Conv_1")),
        ("xception", "block14", ("block14_",)),
        ("efficientnet_lite0", "block7", ("block7", "top")),
    ],
)
def test_a_stage_opens_the_layers_that_its_name_says(name, trainable, beginnings):
    net = build(name)
    expected = {
        layer.name
        for layer in net.model.layers
        if layer.weights and layer.name.startswith((*beginnings, "logits"))
    }
    assert freezing.partition_model(net, trainable).open_layers == expected


def test_the_blogs_cut_has_the_published_size():
    net = build("inception_v3")
    cut = freezing.partition_model(net, "mixed9")
    layers = [net.model.get_layer(name) for name in cut.open_layers if name != "logits"]
    assert len(layers) == 36
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization") == 18
    parameters = sum(layer.count_params() for layer in layers)
    assert round(parameters / 1e6, 1) == 11.1


@pytest.fixture(scope="module")
def inception():
    return build("inception_v3", hidden_units=16)


def test_a_hidden_layer_belongs_to_the_head(inception):
    cut = freezing.partition_model(inception, "head")
    assert cut.open_layers == {"hidden", "logits"}
    agrees(inception, cut)


@pytest.mark.parametrize("name", ["conv2d_93", "conv2d", "batch_normalization_5", "activation_3"])
def test_numbered_names_are_refused_with_those_that_are_allowed(inception, name):
    with pytest.raises(UserError, match=rf"trainable={name}: Keras numbers.*head, all, mixed0, "):
        freezing.partition_model(inception, name)


def test_an_unknown_name_gets_the_nearest(inception):
    with pytest.raises(UserError, match=r"trainable=mixd9: .*\(did you mean 'mixed9'\?\)"):
        freezing.partition_model(inception, "mixd9")


def test_a_layer_with_a_name_of_its_own_may_be_a_cut():
    net = build("mobilenet_v2")
    cut = freezing.partition_model(net, "block_15_depthwise")
    agrees(net, cut)
    assert "block_15_depthwise" in cut.open_layers
    assert "block_15_expand" not in cut.open_layers


def test_a_pooling_beside_the_convolutions_is_left_to_the_tail(inception):
    cut = freezing.partition_model(inception, "mixed9")
    assert len(cut.trunk.outputs) == 1


def test_names_are_snake_cased_as_keras_does_it():
    kinds = [kind for kind in vars(keras.layers).values() if isinstance(kind, type)]
    assert len(kinds) > 100
    for kind in kinds:
        assert freezing.snake_case(kind.__name__) == to_snake_case(kind.__name__)


def test_automatic_names_count_as_numbered_and_given_ones_do_not():
    for kind in (keras.layers.ReLU, keras.layers.Add, keras.layers.BatchNormalization):
        assert freezing.has_automatic_name(kind())
        assert not freezing.has_automatic_name(kind(name="block_1_own"))


def test_the_small_network_is_cut_where_its_stages_are():
    net = small.network()
    assert freezing.partition_model(net, "top").open_layers == {"top_conv", "top_norm", "logits"}
    assert [v.path for v in freezing.partition_model(net, "top_norm").variables] == [
        "top_norm/gamma",
        "top_norm/beta",
        "logits/kernel",
        "logits/bias",
    ]
