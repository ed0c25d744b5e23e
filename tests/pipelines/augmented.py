"""Images, numbers, and augmentations by their text."""

import numpy as np
import tensorflow as tf

from engine.core.call_syntax import parse_calls
from pipelines.augment import augmentations
from tests.pipelines.geometry import noise


def noise_images(height: int = 15, width: int = 15) -> np.ndarray:
    return noise(height, width, 3)


def drawn(draws: int, count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, draws), np.float32)


def applied(text: str, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return augmentations.compose(parse_calls(text)).apply(tf.constant(images), numbers).numpy()
