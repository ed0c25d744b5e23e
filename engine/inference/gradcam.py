"""Grad-CAM: where in an image the classifier finds evidence for a class.

Source: Selvaraju et al. 2017, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization, equations 1 and 2.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from engine.models import keras_internals
from engine.models.batchnorm_folding import fold
from engine.models.classifier import Classifier, build_imagenet

# Its lightness rises with the value, and its hues differ for colour-blind readers too:
# Nunez et al. 2018, Optimizing colormaps with consideration for color vision deficiency.
COLORMAP = "cividis"
COLOR_SHARE = 0.6  # the rest is the image's own luminance


class GradCam:
    """Computes heat maps of one model; traced once for any number of images."""

    def __init__(self, model: keras.Model, maps: Any) -> None:
        """
        Args:
          model: float32 [B, H, W, 3] -> logits.
          maps: the symbolic output of its last feature maps, [B, h, w, C].
        """
        self._below = fold(keras.Model(model.inputs[0], maps))
        self._above = keras.Model(maps, model.outputs[0])
        image_spec = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.uint8)
        signature = [image_spec, tf.TensorSpec([None], tf.int32)]
        self._compiled = tf.function(self._heat, input_signature=signature, autograph=False)

    def __call__(self, images: Any, classes: Any) -> np.ndarray:
        """Returns the heat maps, float32 [B, h, w], 0 to 1.

        Each is divided by its maximum; it is all 0 where there is no evidence for the class.

        Args:
          images: uint8 [B, H, W, 3].
          classes: int [B], the class to explain in each image.
        """
        return self._compiled(images, np.asarray(classes, np.int32)).numpy()

    def _heat(self, images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        maps = self._below(tf.cast(images, tf.float32))
        logits = self._above(maps, training=False)
        # Of a logit only its distance to the others changes the probabilities. Each depends on its
        # own image alone, so the sum's gradient is that of each.
        logits -= tf.reduce_mean(logits, -1, keepdims=True)
        explained = tf.reduce_sum(tf.gather(logits, classes, batch_dims=1))
        weights = tf.reduce_mean(tf.gradients(explained, maps)[0], [1, 2], keepdims=True)
        positive = tf.nn.relu(tf.reduce_sum(weights * maps, -1))
        return tf.math.divide_no_nan(positive, tf.reduce_max(positive, [1, 2], keepdims=True))


def from_classifier(classifier: Classifier) -> GradCam:
    """Explains a classifier's logits by the feature maps that its pooling takes."""
    return GradCam(classifier.model, keras_internals.producer(classifier.features).input)


def from_imagenet(name: str) -> GradCam:
    """Explains the 1,000 ImageNet classes of a pretrained network.

    Raises:
      UserError: its weights can't be fetched.
    """
    model = build_imagenet(name)
    model.layers[-1].activation = keras.activations.linear  # logits instead of the softmax
    return GradCam(model, last_maps(model))


def last_maps(model: keras.Model) -> Any:
    """Returns the maps that the network pools or flattens before it classifies."""
    layers = model.layers
    pools = [layer for layer in layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    flattens = [layer for layer in layers if isinstance(layer, keras.layers.Flatten)]
    return (pools or flattens)[-1].input  # earlier ones belong to squeeze and excitation


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns the image in grey under its heat map, from blue (0) to yellow (1).

    Args:
      image: uint8 [H, W, 3].
      heat: [h, w], 0 to 1; scaled smoothly to the image.

    Returns:
      uint8 [H, W, 3].
    """
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    small = Image.fromarray(np.asarray(heat, np.float32))
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    colors = matplotlib.colormaps[COLORMAP](np.clip(large, 0, 1))[..., :3] * 255
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.rint(COLOR_SHARE * colors + (1 - COLOR_SHARE) * grey).astype(np.uint8)
