"""Grad-CAM: where in an image the classifier sees what speaks for a class.

Source: Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization, equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from engine.models import keras_internals
from engine.models.batchnorm_folding import fold
from engine.models.classifier import Classifier, build_imagenet

# `heat(images, classes)`: uint8 [B, H, W, 3] and int [B] -> float32 [B, h, w], 0 to 1, h and w
# being those of the network's last maps. Each image's heat is divided by its maximum, and is 0
# everywhere where nothing speaks for the class. Compiled once, whatever B.
Heat = Callable[[Any, Any], np.ndarray]

# Its lightness rises with the value and its hues are told apart by the colour-blind as well:
# Nunez et al. 2018, Optimizing colormaps with consideration for color vision deficiency.
COLOURS = "cividis"
COVER = 0.6  # the share of the colour; the rest is the image's own light and dark


def make(classifier: Classifier) -> Heat:
    """Of a classifier's logits and its backbone's last maps, which the pooling takes."""
    return _compiled(classifier.model, keras_internals.producer(classifier.features).input)


def make_imagenet(name: str) -> Heat:
    """Of the 1,000 classes that a backbone came with.

    Raises:
      UserError: its weights could not be fetched.
    """
    model = build_imagenet(name)
    model.layers[-1].activation = keras.activations.linear  # its softmax: logits are wanted
    return _compiled(model, last_maps(model))


def last_maps(model: keras.Model) -> Any:
    """What the network pools over all places before it names a class, or lays out in a row."""
    layers = model.layers
    pools = [layer for layer in layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    rows = [layer for layer in layers if isinstance(layer, keras.layers.Flatten)]
    return (pools or rows)[-1].input  # those before it are of squeeze and excitation


def _compiled(model: keras.Model, maps: Any) -> Heat:
    below, above = fold(keras.Model(model.inputs[0], maps)), keras.Model(maps, model.outputs[0])
    signature = [
        tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.uint8),
        tf.TensorSpec([None], tf.int32),
    ]

    @tf.function(autograph=False, input_signature=signature)
    def heat(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        seen = below(tf.cast(images, tf.float32))
        logits = above(seen, training=False)
        # Each logit depends on its own image alone, so the sum's gradient is that of each.
        chosen = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
        weights = tf.reduce_mean(tf.gradients(chosen, seen)[0], [1, 2], keepdims=True)
        positive = tf.nn.relu(tf.reduce_sum(weights * seen, -1))
        return tf.math.divide_no_nan(positive, tf.reduce_max(positive, [1, 2], keepdims=True))

    return lambda images, classes: heat(images, np.asarray(classes, np.int32)).numpy()


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey with its heat over it, blue where it is 0 and yellow where it is 1.

    image: uint8 [H, W, 3]. heat: [h, w], 0 to 1, stretched smoothly over the image. Returns
    uint8 [H, W, 3].
    """
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    small = Image.fromarray(np.asarray(heat, np.float32))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    colours = matplotlib.colormaps[COLOURS](np.clip(large, 0, 1))[..., :3] * 255
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.rint(COVER * colours + (1 - COVER) * grey).astype(np.uint8)
