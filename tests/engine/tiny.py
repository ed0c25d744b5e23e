"""The backbone `tiny`, for tests alone: the kinds of layers of MobileNetV2, three instead of 155.

Sessions of tests and recipes of `small_runs` register it. A program that a test starts knows it
with the environment of `environment()`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine.core.recipe import SOURCES_OF_WEIGHTS
from engine.models.backbones import BACKBONES, Backbone

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny"


def register() -> None:
    """Adds the backbone to the table; more than once is no harm."""
    BACKBONES.setdefault(NAME, Backbone(_build, 32, "symmetric", "stem|middle|top", "middle"))


def environment(**changes: str) -> dict[str, str]:
    """Environment variables with which a program, and what that starts, registers it as well.

    Args:
      changes: further variables, such as those that `with_tiny/sitecustomize.py` names.
    """
    folders = (str(Path(__file__).with_name("with_tiny")), str(ROOT))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **changes}


def _build(pixels: Any, weights: str) -> Any:
    """Stages `stem`, `middle` and `top`, each of a convolution, a normalization and a ReLU.

    The middle convolution is depthwise. [B, H, W, 3] -> [B, H/8, W/8, 16]. The normalizations start
    with statistics that let images through: else what an image is would hardly count.
    """
    from keras import initializers, layers

    if weights not in SOURCES_OF_WEIGHTS:
        raise NotImplementedError(f"tiny has no weights in a file; got {weights}")
    convolutions = {
        "stem": layers.Conv2D(8, 4, 4, "same", use_bias=False, name="stem_conv"),
        "middle": layers.DepthwiseConv2D(3, 2, "same", use_bias=False, name="middle_conv"),
        "top": layers.Conv2D(16, 1, use_bias=False, name="top_conv"),
    }
    x = pixels
    for name, convolution in convolutions.items():
        normalization = layers.BatchNormalization(
            beta_initializer=initializers.RandomUniform(-0.2, 0.2),
            gamma_initializer=initializers.RandomUniform(0.8, 1.2),
            moving_mean_initializer=initializers.RandomUniform(-0.2, 0.2),
            moving_variance_initializer=initializers.Constant(0.15),  # of activations of images
            name=f"{name}_norm",
        )
        x = layers.ReLU(6.0, name=name)(normalization(convolution(x)))
    return x
