"""The two resamplings and their matrices, against SciPy, NumPy and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.spatial.transform import Rotation

from pipelines import matrices
from tests.pipelines.geometry import noise, resampled

SIZES = [(9, 9), (8, 8), (7, 12), (13, 6), (1, 5), (1, 1)]


def batch_of(value: float) -> tf.Tensor:
    return tf.constant([value, value], tf.float32)


GEOMETRY = {
    "rotation": matrices.rotation(batch_of(0.7)),
    "quarter_turn": matrices.quarter_turn(batch_of(0.3)),
    "translation": matrices.translation(batch_of(1.25), batch_of(-2.6)),
    "shearing": matrices.shearing(batch_of(-0.4)),
    "scaling": matrices.scaling(batch_of(0.6), batch_of(1.7)),
    "mirror": matrices.scaling(batch_of(1.0), batch_of(-1.0)),
}
GEOMETRY["all"] = (
    GEOMETRY["rotation"] @ GEOMETRY["translation"] @ GEOMETRY["shearing"] @ GEOMETRY["scaling"]
)


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resampling_is_scipys(name, height, width):
    images, matrix = noise(height, width), GEOMETRY[name]
    result = matrices.resample(images, matrix).numpy()
    for image, one, shown in zip(images, matrix.numpy(), result, strict=True):
        np.testing.assert_allclose(shown, resampled(image, one), atol=0.02)


def test_each_picture_goes_through_its_own_matrix():
    images = noise(10, 8, 3)
    own = matrices.rotation(tf.constant([0.0, 0.3, -1.0]))
    result = matrices.resample(images, own).numpy()
    for image, one, shown in zip(images, own.numpy(), result, strict=True):
        np.testing.assert_allclose(shown, resampled(image, one), atol=0.02)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_identity_leaves_every_pixel(height, width):
    images = noise(height, width)
    assert np.array_equal(matrices.resample(images, matrices.rotation(batch_of(0.0))), images)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mirror_images_are_exact(height, width):
    images = noise(height, width)
    across = matrices.resample(images, matrices.scaling(batch_of(1.0), batch_of(-1.0)))
    upside = matrices.resample(images, matrices.scaling(batch_of(-1.0), batch_of(1.0)))
    assert np.array_equal(across, images[:, :, ::-1])
    assert np.array_equal(upside, images[:, ::-1])


@pytest.mark.parametrize("side", [1, 6, 7])
@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_are_exact(side, quarters):
    images = noise(side, side)
    turned = matrices.resample(images, matrices.quarter_turn(batch_of(quarters / 4 + 0.1)))
    assert np.array_equal(turned, np.rot90(images, -quarters, axes=(1, 2)))


def test_beyond_the_edge_stand_the_nearest_pixels():
    images = noise(5, 6)
    moved = matrices.resample(images, matrices.translation(batch_of(0.0), batch_of(-2.0))).numpy()
    assert np.array_equal(moved[:, :, :2], np.repeat(images[:, :, :1], 2, axis=2))
    assert np.array_equal(moved[:, :, 2:], images[:, :, :-2])


def test_recolouring_is_the_matrix_on_each_pixel_clipped():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    matrix = random.uniform(-1, 1, (2, 4, 4)).astype(np.float32)
    matrix[:, :3, 3] *= 100
    mixed = np.einsum("bij,bhwj->bhwi", matrix[:, :3, :3], images) + matrix[:, None, None, :3, 3]
    expected = np.clip(mixed, 0, 255)
    assert 0 < (expected == 0).sum() < expected.size  # else clipping is not seen
    np.testing.assert_allclose(matrices.recolour(images, matrix), expected, atol=1e-3)


def test_hue_turns_about_the_axis_of_greys():
    for angle in (-1.0, 0.3, 2.5):
        matrix = matrices.hue(batch_of(angle)).numpy()[0]
        expected = Rotation.from_rotvec(angle * np.ones(3) / np.sqrt(3)).as_matrix()
        np.testing.assert_allclose(matrix[:3, :3], expected, atol=1e-6)
        np.testing.assert_array_equal(matrix[:, 3], [0, 0, 0, 1])


def test_no_saturation_is_pillows_grey():
    images = noise(20, 20)
    grey = matrices.recolour(images.astype(np.float32), matrices.saturation(batch_of(0.0))).numpy()
    for image, shown in zip(images, grey, strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"), float)[..., None]
        np.testing.assert_allclose(shown, np.broadcast_to(expected, shown.shape), atol=0.51)


def test_no_contrast_is_the_mean_of_the_grey():
    images = noise(20, 20)
    mean = matrices.mean_colour(images, None)
    np.testing.assert_allclose(mean, images.mean((1, 2)), rtol=1e-5)
    flat = matrices.recolour(images.astype(np.float32), matrices.contrast(batch_of(0.0), mean))
    for image, shown in zip(images, flat.numpy(), strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"), float).mean()
        np.testing.assert_allclose(shown, np.full_like(shown, expected), atol=0.1)


def test_the_mean_colour_is_that_after_the_changes_so_far():
    images = noise(6, 6)
    changed = matrices.offset(batch_of(-9.0)) @ matrices.saturation(batch_of(0.4))
    changed = changed.numpy()
    mixed = np.einsum("bij,bhwj->bhwi", changed[:, :3, :3], images) + changed[:, None, None, :3, 3]
    np.testing.assert_allclose(matrices.mean_colour(images, changed), mixed.mean((1, 2)), atol=1e-3)


def test_numbers_below_the_limit_are_one():
    assert matrices.below(tf.constant([0.0, 0.49, 0.5, 0.9]), 0.5).numpy().tolist() == [1, 1, 0, 0]
