"""Changes of images that are no matrix: functions of the levels 0 to 255, and a filter.

Each takes an image of whole levels, float32 [H, W, 3], and follows the function of the same name in
Pillow (`ImageOps`, `ImageEnhance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

_LEVELS = 256


def change_some(
    images: tf.Tensor, which: tf.Tensor, strengths: tf.Tensor, filters: Sequence[Callable]
) -> tf.Tensor:
    """Changes each image by one of several filters, or not.

    One image after the other: to compute every filter for all images and to drop most results
    took trivial_augment more than twice as long.

    Args:
      images: float32 [B, H, W, 3], 0 to 255, rounded to whole levels where they are changed.
      which: float32 [B], the number of the filter from 1; 0 for none.
      strengths: float32 [B].
      filters: functions of an image and its strength.
    """

    def change(arguments: tuple) -> tf.Tensor:
        image, index, strength = arguments
        branches = [lambda: image]
        branches += [lambda f=f: f(tf.round(image), strength) for f in filters]  # type: ignore[misc]
        return tf.switch_case(tf.cast(index, tf.int32), branches)

    return tf.map_fn(change, (images, which, strengths), fn_output_signature=tf.float32)


def posterize(image: tf.Tensor, dropped: tf.Tensor) -> tf.Tensor:
    """Sets the lowest bits of each level to 0, the nearest whole number to `dropped` of them."""
    step = tf.round(2.0 ** tf.round(dropped))
    return tf.floor(image / step) * step


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts the levels from a threshold on."""
    return tf.where(image < threshold, image, 255 - image)


def auto_contrast(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Stretches the levels of each channel to 0 … 255."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    stretched = tf.floor(255 * (image - low) / tf.maximum(high - low, 1))
    return tf.where(high > low, stretched, image)


def equalize(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    """Makes the levels of each channel uniformly frequent."""
    index = tf.cast(image, tf.int32) + tf.range(3) * _LEVELS
    counts = tf.math.unsorted_segment_sum(tf.ones_like(index), index, 3 * _LEVELS)
    counts, levels = tf.reshape(counts, [3, _LEVELS]), tf.range(_LEVELS)
    highest = tf.reduce_max(tf.where(counts > 0, levels, 0), 1, True)
    step = tf.reduce_sum(tf.where(levels < highest, counts, 0), 1, True) // 255
    table = (step // 2 + tf.cumsum(counts, 1, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), levels)
    return tf.cast(tf.gather(tf.reshape(table, [-1]), index), tf.float32)


def sharpen(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies distances from the smoothed image by a factor; the outermost pixels stay."""
    height, width = image.shape[:2]
    rows = sum(image[i : height - 2 + i] for i in range(3))
    box = sum(rows[:, i : width - 2 + i] for i in range(3))
    inner = image[1:-1, 1:-1]
    detail = tf.pad(inner - tf.round((box + 4 * inner) / 13), [[1, 1], [1, 1], [0, 0]])
    return tf.clip_by_value(image + (factor - 1) * detail, 0, 255)
