"""The two resamplings of a batch, one for geometry and one for colour, and the matrices for them.

A geometry matrix is float32 [B, 3, 3] and takes an output pixel to the input pixel that is shown
there, as column vectors (y, x, 1) in pixels from the image's centre. A colour matrix is float32
[B, 4, 4] and takes (red, green, blue, 1), 0 to 255, to the new colour. Each resampling is one XLA
program: compiled together, XLA would read the geometry again for every channel.
"""

from __future__ import annotations

import math

import tensorflow as tf

# ITU-R BT.601 luma, the grey of Pillow's "L".
_LUMA = (0.299, 0.587, 0.114)


@tf.function(jit_compile=True)
def resample(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Resamples each image by its geometry matrix, bilinear, nearest beyond the edge.

    Args:
      images: uint8 [B, H, W, 3].
      matrices: float32 [B, 3, 3].

    Returns:
      float32 [B, H, W, 3], 0 to 255.
    """
    height, width = images.shape[1:3]
    rows, columns = _source(matrices, height, width)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    index = tf.cast(top, tf.int32) * width + tf.cast(left, tf.int32)
    step_down = tf.where(top < height - 1, width, 0)
    step_right = tf.where(left < width - 1, 1, 0)
    pixels = tf.reshape(images, [-1, height * width, 3])

    def tap(offset):
        return tf.cast(tf.gather(pixels, index + offset, batch_dims=1), tf.float32)

    above = tap(0) * (1 - right) + tap(step_right) * right
    below = tap(step_down) * (1 - right) + tap(step_down + step_right) * right
    return tf.reshape(above * (1 - down) + below * down, [-1, height, width, 3])


def _source(matrices: tf.Tensor, height: int, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns row and column, float32 [B, H*W], of the input pixel of each output pixel."""
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = tf.range(height, dtype=tf.float32)[:, None] - middle_y
    x = tf.range(width, dtype=tf.float32)[None, :] - middle_x

    def coordinate(row, middle, size):
        a, b, c = (matrices[:, row, i, None, None] for i in range(3))
        return tf.reshape(
            tf.clip_by_value(a * y + b * x + c + middle, 0, size - 1), [-1, height * width]
        )

    return coordinate(0, middle_y, height), coordinate(1, middle_x, width)


@tf.function(jit_compile=True)
def recolour(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Applies each image's colour matrix: float32 [B, H, W, 3], clipped to 0 to 255."""
    columns = matrices[:, None, None, :3]
    mixed = sum(images[..., c, None] * columns[..., c] for c in range(3))
    return tf.clip_by_value(mixed + columns[..., 3], 0, 255)


def mean_colour(images: tf.Tensor, matrices: tf.Tensor | None) -> tf.Tensor:
    """Returns the mean colour of each image, float32 [B, 3], after the colour matrices if any."""
    mean = _channel_means(images)
    if matrices is None:
        return mean
    return tf.linalg.matvec(matrices[:, :3, :3], mean) + matrices[:, :3, 3]


@tf.function(jit_compile=True)
def _channel_means(images: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])


def below(numbers: tf.Tensor, limit: float) -> tf.Tensor:
    """Returns 1.0 where a number is below the limit, else 0.0."""
    return tf.cast(numbers < limit, tf.float32)


def mirror(numbers: tf.Tensor, probability: float) -> tf.Tensor:
    """Returns -1.0 where a number is below the probability, else 1.0."""
    return 1 - 2 * below(numbers, probability)


def choice(numbers: tf.Tensor, count: int) -> tf.Tensor:
    """Returns one of the whole numbers 0 to count - 1, float32, for a number in [0, 1)."""
    return tf.floor(count * numbers)


def _matrix(rows: list) -> tf.Tensor:
    """Stacks rows of numbers and [B] tensors to [B, n, n]."""
    like = next(value for row in rows for value in row if isinstance(value, tf.Tensor))
    full = [[value + tf.zeros_like(like) for value in row] for row in rows]
    return tf.stack([tf.stack(row, -1) for row in full], -2)


def rotation(angle: tf.Tensor) -> tf.Tensor:
    """Rotates by `angle` radians, float32 [B]."""
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def quarter_turn(number: tf.Tensor) -> tf.Tensor:
    """Rotates by 0 to 3 times 90 degrees for a number in [0, 1), exactly."""
    quarters = tf.floor(4 * number)
    odd, half = quarters % 2, 1 - 2 * tf.floor(quarters / 2)
    cos, sin = (1 - odd) * half, odd * half
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def translation(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Shifts by y and x pixels, float32 [B] each."""
    return _matrix([[1, 0, y], [0, 1, x], [0, 0, 1]])


def shearing(angle: tf.Tensor) -> tf.Tensor:
    """Shears vertical lines by `angle` radians, float32 [B].

    As `apply_affine_transform` of Keras 3 defines it, whose coordinates are (x, y).
    """
    return _matrix([[tf.cos(angle), 0, 0], [-tf.sin(angle), 1, 0], [0, 0, 1]])


def scaling(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Scales so that output pixels are y and x input pixels apart, float32 [B]; -1 mirrors."""
    return _matrix([[y, 0, 0], [0, x, 0], [0, 0, 1]])


def one_motion(
    angle: tf.Tensor, slant_y: tf.Tensor, slant_x: tf.Tensor, y: tf.Tensor, x: tf.Tensor
) -> tf.Tensor:
    """Rotates, shears along an axis, or shifts along one; float32 [B] each, all but one of them 0.

    A shear shifts each pixel by a multiple of its distance from the middle line.
    """
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _matrix([[cos, slant_y - sin, y], [slant_x + sin, cos, x], [0, 0, 1]])


def crop(numbers: list, scale: float, ratio: float, size: tuple[int, int]) -> tf.Tensor:
    """Shows a random rectangle; see `changes.random_resized_crop`.

    The first of several tries that fits into the image counts; without any, the largest rectangle
    of an allowed aspect ratio in the middle.

    Args:
      numbers: two for each try, then two for its place, float32 [B] each, 0 to 1.
      size: height and width in pixels.
    """
    height, width = size
    *tries, down, right = numbers
    area = height * width * (scale + (1 - scale) * tf.stack(tries[0::2]))
    aspect = tf.exp((2 * tf.stack(tries[1::2]) - 1) * math.log(ratio))
    rows, columns = tf.sqrt(area / aspect), tf.sqrt(area * aspect)
    fits = (rows <= height) & (columns <= width)
    first = tf.one_hot(tf.argmax(tf.cast(fits, tf.int32), 0), len(tries) // 2, axis=0)
    found = tf.reduce_any(fits, 0)
    rows = tf.where(found, tf.reduce_sum(first * rows, 0), min(height, width * ratio))
    columns = tf.where(found, tf.reduce_sum(first * columns, 0), min(width, height * ratio))
    y, x = (tf.where(found, number - 0.5, 0.0) for number in (down, right))
    return _matrix(
        [
            [rows / height, 0, y * (height - rows)],
            [0, columns / width, x * (width - columns)],
            [0, 0, 1],
        ]
    )


def gain(factor: tf.Tensor) -> tf.Tensor:
    """Multiplies each channel by `factor`, float32 [B]."""
    return _matrix([[factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1]])


def offset(amount: tf.Tensor) -> tf.Tensor:
    """Adds `amount`, float32 [B] in grey levels, to each channel."""
    return _matrix([[1, 0, 0, amount], [0, 1, 0, amount], [0, 0, 1, amount], [0, 0, 0, 1]])


def contrast(factor: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Multiplies distances from the mean grey by `factor`; mean: float32 [B, 3], RGB."""
    rest = (1 - factor) * tf.reduce_sum(mean * _LUMA, -1)
    return _matrix([[factor, 0, 0, rest], [0, factor, 0, rest], [0, 0, factor, rest], [0, 0, 0, 1]])


def saturation(factor: tf.Tensor) -> tf.Tensor:
    """Multiplies distances from each pixel's grey by `factor`, float32 [B]."""
    rows = [
        [rest * (1 - factor) + (factor if i == j else 0) for j, rest in enumerate(_LUMA)] + [0]
        for i in range(3)
    ]
    return _matrix([*rows, [0, 0, 0, 1]])


def hue(angle: tf.Tensor) -> tf.Tensor:
    """Rotates colours by `angle` radians, float32 [B], about the grey axis (Rodrigues)."""
    cos, sin = tf.cos(angle), tf.sin(angle) / 3**0.5
    same, after, before = cos + (1 - cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    return _matrix(
        [[same, after, before, 0], [before, same, after, 0], [after, before, same, 0], [0, 0, 0, 1]]
    )
