"""Builds the classifier: pixels -> scale -> backbone -> pool -> head."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import keras
import tensorflow as tf

from engine.core.recipe import Recipe
from engine.models.backbones import BACKBONES, SCALINGS, Scaling
from engine.models.keras_internals import nested_layers


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with names for the places where it may be cut.

    Attributes:
      model: float32 [B, H, W, 3], 0 to 255, RGB -> logits, float32 [B, classes].
      features: the pooled features, symbolic [B, channels]; the backbone's output.
      vector: the input of the last dense layer; dropout acts on it in training.
      head: the last dense layer, vector -> logits.
      stages: the backbone's stages in order, name -> the symbolic tensor that it outputs.
    """

    model: keras.Model
    features: Any
    vector: Any
    head: keras.layers.Layer
    stages: dict[str, Any]


def build(
    recipe: Recipe, classes: int, devices: tf.distribute.Strategy | None = None
) -> Classifier:
    """Builds the recipe's classifier with the backbone's weights and a random head.

    The recipe's seed decides the random weights. The model is float32, whatever precision it will
    be computed in. Layer names are those of a fresh process, however many models were built before.
    The backbone's own dropout is off: the recipe's `dropout` is the only one, so that every draw is
    a function of (seed, epoch, example).

    Args:
      devices: the strategy whose devices hold the variables; see `distribution.choose_strategy`.
        Its scope is entered here, since a new session would end one that was entered before.

    Raises:
      UserError: the weights could not be fetched or don't fit.
    """
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(recipe.seed)
    with (devices or tf.distribute.get_strategy()).scope():
        return _build(recipe, classes)


def _build(recipe: Recipe, classes: int) -> Classifier:
    backbone = BACKBONES[recipe.backbone]
    pixels = keras.Input((*recipe.image_size, 3), dtype="float32", name="pixels")
    maps = backbone.build(scale(pixels, SCALINGS[backbone.scaling]), recipe.weights)
    features = keras.layers.GlobalAveragePooling2D(name="pool")(maps)
    vector = features
    if recipe.hidden_units:
        hidden = keras.layers.Dense(recipe.hidden_units, activation="relu", name="hidden")
        vector = hidden(features)
    head = keras.layers.Dense(classes, name="logits")
    model = keras.Model(pixels, head(vector), name=recipe.backbone)
    for layer in nested_layers(model):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return Classifier(model, features, vector, head, _stages(model, backbone.stages, maps))


def build_imagenet(name: str) -> keras.Model:
    """Builds the backbone with its own classifier: pixels, 0 to 255 -> probabilities [B, 1000].

    Raises:
      UserError: the weights could not be fetched.
    """
    backbone = BACKBONES[name]
    size = backbone.image_size
    pixels = keras.Input((size, size, 3), dtype="float32", name="pixels")
    scaled = scale(pixels, SCALINGS[backbone.scaling])
    return keras.Model(pixels, backbone.build(scaled, "imagenet", include_top=True))


def scale(pixels: Any, scaling: Scaling) -> Any:
    """Adds layers that compute (pixel - mean) / deviation."""
    if scaling.bgr:
        pixels = pixels[..., ::-1]
    mean, deviation = scaling.mean, scaling.deviation
    if scaling.bgr:
        mean, deviation = mean[::-1], deviation[::-1]
    factors: Any = [1 / value for value in deviation]
    offsets: Any = [-m / value for m, value in zip(mean, deviation, strict=True)]
    if len(set(factors)) == len(set(offsets)) == 1:
        factors, offsets = factors[0], offsets[0]  # scalars are several times as fast as vectors
    return keras.layers.Rescaling(factors, offsets, name="scale")(pixels)


def _stages(model: keras.Model, pattern: str, end: Any) -> dict[str, Any]:
    """Returns stage name -> output tensor, in order; see `Backbone.stages`.

    Args:
      end: the backbone's output.
    """
    matches = [(m, layer) for layer in model.layers if (m := re.fullmatch(pattern, layer.name))]
    if not re.compile(pattern).groups:
        return {match[0]: layer.output for match, layer in matches}
    first: dict[str, Any] = {}
    for match, layer in matches:
        first.setdefault(match[1], layer)
    outputs = [layer.input for layer in list(first.values())[1:]]
    return dict(zip(first, [*outputs, end], strict=True))
