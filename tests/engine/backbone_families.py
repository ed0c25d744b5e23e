"""Backbones to test with: one of each family, at about the smallest size that it takes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.models import classifier
from engine.models.backbones import BACKBONES
from engine.models.classifier import Classifier
from tests.engine import small

# A default run of the tests visits these: MBConv, numbered layer names and branches, squeeze and
# excitation, pre-activation.
REPRESENTATIVES = {
    "efficientnet_lite0": 32,
    "inception_v3": 75,
    "mobilenet_v3_small": 32,
    "resnet50_v2": 32,
}
FAMILIES = {
    **REPRESENTATIVES,
    "inception_resnet_v2": 75,
    "xception": 71,
    "vgg16": 32,
    "resnet50": 32,
    "densenet121": 32,
    "mobilenet": 32,
    "mobilenet_v2": 32,
    "nasnet_mobile": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_b0": 32,
    "convnext_tiny": 32,
}


def slow(names) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


FAMILY_PARAMS = [*REPRESENTATIVES, *slow(n for n in FAMILIES if n not in REPRESENTATIVES)]
BACKBONE_PARAMS = [*FAMILY_PARAMS, *slow(n for n in BACKBONES if n not in FAMILIES)]


def build(name: str, **changes) -> Classifier:
    side = FAMILIES.get(name, 75)
    return classifier.build(small.recipe(backbone=name, image_size=(side, side), **changes), 3)


def images_for(network: Classifier) -> np.ndarray:
    return small.smooth_images(network.model.inputs[0].shape[1])[:3]


def run_trunk(trunk: keras.Model, pixels: np.ndarray) -> list[np.ndarray]:
    """The tensors that cross the cut; Keras returns a single tensor without a list around it."""
    return small.values(tf.nest.flatten(trunk(pixels, training=False)))


def run_tail(tail: keras.Model | None, boundary: list) -> np.ndarray:
    """The head's input; the boundary itself where there is no tail."""
    return np.array(boundary[0] if tail is None else tail(boundary, training=False))


def relative_error(one, other) -> float:
    """Relative L2 distance."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
