"""Cuts of a classifier: the names that are allowed, and the layers that they open.

tests/engine/test_backbone_families.py cuts every backbone.
"""

import dataclasses

import keras
import numpy as np
import pytest

from engine.core.errors import UserError
from engine.models import freezing
from engine.models.keras_internals import nested_layers
from tests.engine import small
from tests.engine.backbone_families import build, images_for, run_tail, run_trunk


def assert_recomposes(network, partition) -> None:
    """Trunk, tail and head make the model, to rounding."""
    images = images_for(network)
    expected = np.array(network.model(images, training=False))
    vector = run_tail(partition.tail, run_trunk(partition.trunk, images))
    difference = np.abs(np.array(partition.head(vector)) - expected).max()
    assert difference <= 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def inception():
    return build("inception_v3", hidden_units=16)


@pytest.mark.parametrize(
    ("name", "trainable", "beginnings"),
    [
        pytest.param("vgg16", "block5_pool", ("block5_conv",), marks=pytest.mark.slow),
        pytest.param("resnet50", "conv5_block1_out", ("conv5_",), marks=pytest.mark.slow),
        ("mobilenet_v2", "block_14", ("block_14_", "block_15_", "block_16_", "Conv_1")),
        pytest.param("xception", "block14", ("block14_",), marks=pytest.mark.slow),
        ("efficientnet_lite0", "block7", ("block7", "top")),
    ],
)
def test_stage_opens_the_layers_of_its_name(name, trainable, beginnings):
    network = build(name)
    expected = {
        layer.name
        for layer in network.model.layers
        if layer.weights and layer.name.startswith((*beginnings, "logits"))
    }
    assert freezing.partition_model(network, trainable).open_layers == expected


def test_inception_cut_at_mixed9_has_the_published_size(inception):
    partition = freezing.partition_model(inception, "mixed9")
    names = partition.open_layers - {"hidden", "logits"}
    layers = [inception.model.get_layer(name) for name in names]
    assert len(layers) == 36
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds.count("Conv2D") == kinds.count("BatchNormalization") == 18
    parameters = sum(layer.count_params() for layer in layers)
    assert round(parameters / 1e6, 1) == 11.1


def test_hidden_layer_belongs_to_the_head(inception):
    partition = freezing.partition_model(inception, "head")
    assert partition.open_layers == {"hidden", "logits"}
    assert_recomposes(inception, partition)


@pytest.mark.parametrize("name", ["conv2d_93", "conv2d", "batch_normalization_5", "activation_3"])
def test_automatic_name_is_refused_with_the_allowed_names(inception, name):
    with pytest.raises(
        UserError, match=rf"trainable={name}: Keras numbers.*head, all, norms, mixed0, "
    ):
        freezing.partition_model(inception, name)


def test_unknown_name_gets_a_suggestion(inception):
    with pytest.raises(UserError, match=r"trainable=mixd9: .*\(did you mean 'mixed9'\?\)"):
        freezing.partition_model(inception, "mixd9")


def test_named_layer_may_be_a_cut():
    network = small.network()
    partition = freezing.partition_model(network, "top_norm")
    assert_recomposes(network, partition)
    assert "top_norm" in partition.open_layers
    assert "top_conv" not in partition.open_layers


def test_pooling_beside_convolutions_belongs_to_the_tail(inception):
    partition = freezing.partition_model(inception, "mixed9")
    assert len(partition.trunk.outputs) == 1


def test_automatic_names_are_told_from_chosen_ones():
    for kind in (keras.layers.ReLU, keras.layers.Add, keras.layers.BatchNormalization):
        assert freezing.has_automatic_name(kind())
        assert not freezing.has_automatic_name(kind(name="block_1_own"))


def test_cut_opens_its_stage_and_all_after_it():
    network = small.network()
    opened = freezing.partition_model(network, "top").open_layers
    assert opened == {"top_conv", "top_norm", "logits"}
    assert [v.path for v in freezing.partition_model(network, "top_norm").variables] == [
        "top_norm/gamma",
        "top_norm/beta",
        "logits/kernel",
        "logits/bias",
    ]


@pytest.mark.parametrize(
    ("share", "stage"),
    [("0.7", "block4"), ("0.05", "top"), ("0.99", "block1"), ("block6", "block6")],
)
def test_share_of_layers_opens_the_stages_above_the_rest(share, stage):
    """Of the 98 layers with weights of Lite0, 30 are below block4, and 68 are not."""
    network = build("efficientnet_lite0")
    assert freezing.opened_stage(network, share) == stage
    opened, named = (freezing.partition_model(network, name) for name in (share, stage))
    assert opened.open_layers == named.open_layers


def test_rate_factors_fall_by_stage():
    """By the names of the layers: the hidden layer belongs to the head, which has the full rate."""
    network = build("efficientnet_lite0", hidden_units=8)
    powers = {"stem": 9, **{f"block{n}": 9 - n for n in range(1, 8)}, "top": 1}
    variables = network.model.trainable_variables
    for variable, factor in zip(
        variables, freezing.rate_factors(network, variables, 0.9), strict=True
    ):
        layer = variable.path.split("/")[0]
        expected = next((n for stage, n in powers.items() if layer.startswith(stage)), 0)
        assert factor == 0.9**expected, variable.path


def test_rate_factors_count_parallel_branches_as_their_stage(inception):
    """Mixed9 and mixed10 have nine convolutions each, in parallel; the head has two kernels."""
    variables = freezing.partition_model(inception, "mixed9").variables
    factors = freezing.rate_factors(inception, variables, 0.5)
    kernels = [f for v, f in zip(variables, factors, strict=True) if v.path.endswith("kernel")]
    assert [kernels.count(f) for f in (1.0, 0.5, 0.25)] == [2, 9, 9]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnext_tiny"])
def test_norms_open_every_scale_and_offset_and_the_head(name):
    network = build(name)
    partition = freezing.partition_model(network, "norms")
    kinds = ("BatchNormalization", "LayerNormalization")
    norms = [one for one in nested_layers(network.model) if type(one).__name__ in kinds]
    expected = [v for layer in [*norms, network.head] for v in layer.trainable_variables]
    assert [v.path for v in partition.variables] == [v.path for v in expected]
    assert {v.name for v in partition.variables[:-2]} == {"gamma", "beta"}
    below = [layer for layer in partition.trunk.layers if layer.weights]
    assert len(below) == (name != "convnext_tiny"), "the first convolution, if it is a layer"
    assert_recomposes(network, partition)


def test_norms_of_a_network_without_any_are_refused():
    network = small.network()
    pixels = keras.Input((8, 8, 3))
    plain = keras.layers.Conv2D(4, 3, name="conv")(pixels)
    features = keras.layers.GlobalAveragePooling2D()(plain)
    model = keras.Model(pixels, keras.layers.Dense(3)(features), name="plain")
    without = dataclasses.replace(network, model=model, features=features, stages={"conv": plain})
    for check in (freezing.partition_model, freezing.require_trainable):
        with pytest.raises(UserError, match=r"norms: plain has no normalization .*head, all, conv"):
            check(without, "norms")
