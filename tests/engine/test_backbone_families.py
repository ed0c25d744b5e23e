"""Each family of backbones, built once: cutting, folding and compiling keep it the same network."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.frozen import trunk
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.models import batchnorm_folding
from engine.models.backbones import BACKBONES
from engine.models.classifier import Classifier
from engine.models.freezing import ModelPartition, partition_model
from tests.engine import small
from tests.engine.backbone_families import (
    BACKBONE_PARAMS,
    FAMILIES,
    build,
    images_for,
    relative_error,
    run_tail,
    run_trunk,
)

# How many normalizations follow a linear convolution that nothing else reads.
FOLDABLE = {
    "efficientnet_lite0": 49,
    "inception_v3": 94,
    "densenet121": 59,
    "resnet50_v2": 32,
    "xception": 40,
    "nasnet_mobile": 188,  # of 192: the four `adjust_bn_…` follow a concatenation
}
# Relative distance from float32. A number is rounded by up to 2**-8 in bfloat16 and by 2**-11 in
# float16. A hundred roundings, each its own way, make up to ten times that, 0.04 and 0.005; random
# weights, which average less out than trained ones, may double it.
HALF_TOLERANCES = {"mixed_bfloat16": 0.1, "mixed_float16": 0.02}


@dataclasses.dataclass
class Family:
    """A backbone with lively statistics, cut at its default stage."""

    name: str
    network: Classifier
    images: np.ndarray
    partition: ModelPartition
    boundary: list[np.ndarray]


@pytest.fixture(scope="module", params=BACKBONE_PARAMS)
def family(request):
    network = build(request.param)
    small.enliven(network.model)
    partition = partition_model(network, BACKBONES[request.param].fine_tune_from)
    images = images_for(network)
    yield Family(request.param, network, images, partition, run_trunk(partition.trunk, images))
    keras.backend.clear_session()


def test_trunk_tail_and_head_make_the_model(family, request):
    """To rounding, against the largest logit; the logits of the three images differ by more."""
    network, stages = family.network, list(family.network.stages)
    places = ["head", "all", BACKBONES[family.name].fine_tune_from]
    if request.config.getoption("--slow"):
        places += [stages[0], stages[len(stages) // 2], stages[-1]]
    expected = np.array(network.model(family.images, training=False))
    largest = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * largest
    for place in dict.fromkeys(places):
        partition = partition_model(network, place)
        vector = run_tail(partition.tail, run_trunk(partition.trunk, family.images))
        assert np.abs(np.array(partition.head(vector)) - expected).max() <= 1e-4 * largest, place
        assert partition.frozen == (place != "all" and bool(partition.trunk.weights)), place


def test_lower_cut_trains_more_variables(family):
    network, stages = family.network, list(family.network.stages)
    assert BACKBONES[family.name].fine_tune_from in stages
    places = ["all", *stages[:: len(stages) // 3], "head"]
    trained = [{id(v) for v in partition_model(network, place).variables} for place in places]
    assert trained[0] == {id(v) for v in network.model.trainable_variables}
    assert all(higher < lower for lower, higher in itertools.pairwise(trained[1:]))
    assert trained[-1] == {id(v) for v in network.head.trainable_variables}


@contextlib.contextmanager
def set_to_nan(layers: list):
    """Within the block all their weights are NaN."""
    weights = [weight for layer in layers for weight in layer.weights]
    before = small.values(weights)
    for weight in weights:
        weight.assign(np.full(weight.shape, np.nan))
    yield
    for weight, value in zip(weights, before, strict=True):
        weight.assign(value)


def test_frozen_weights_act_below_the_cut_and_open_ones_above(family):
    partition, boundary, images = family.partition, family.boundary, family.images
    assert partition.frozen
    # NASNet's cells read the two before them, so a cut between cells has several tensors.
    assert (len(boundary) > 1) == family.name.startswith("nasnet")
    vector = run_tail(partition.tail, boundary)
    layers = family.network.model.layers
    opened = [layer for layer in layers if layer.name in partition.open_layers]
    with set_to_nan([layer for layer in layers if layer not in opened]):
        assert np.array_equal(run_tail(partition.tail, boundary), vector)
        assert not np.array_equal(run_trunk(partition.trunk, images)[0], boundary[0])
    with set_to_nan(opened):
        after = run_trunk(partition.trunk, images)
        assert all(np.array_equal(a, b) for a, b in zip(after, boundary, strict=True))
        assert not np.array_equal(run_tail(partition.tail, boundary), vector)


def test_folded_model_equals_the_model(family):
    model = family.network.model
    folded = batchnorm_folding.fold(model)(family.images)
    assert relative_error(folded, model(family.images, training=False)) < 1e-4
    if family.name in FOLDABLE:
        assert len(batchnorm_folding.foldable_pairs(model)) == FOLDABLE[family.name]


@pytest.mark.parametrize("mode", [FLOAT32, *map(ComputeMode, HALF_TOLERANCES)], ids=str)
def test_compiled_trunk_is_within_tolerance_of_the_model(family, mode):
    if mode != FLOAT32 and family.name not in FAMILIES:
        pytest.skip("deep networks with random weights amplify rounding")
    outputs = trunk.compile_frozen(family.partition.trunk, mode)(family.images)
    # All networks end a stage in layers that do not stay float32.
    assert {output.dtype.name for output in outputs} == {mode.dtype}
    floats = [tf.cast(output, tf.float32) for output in outputs]
    errors = [relative_error(a, b) for a, b in zip(floats, family.boundary, strict=True)]
    tolerance = HALF_TOLERANCES.get(mode.policy, 1e-4)
    assert max(errors) < tolerance
    assert mode == FLOAT32 or min(errors) > tolerance / 100, "computed in half precision"
