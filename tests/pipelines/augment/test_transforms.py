"""The two resamplings against SciPy and NumPy; test_augmentations checks the matrices."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.augment import transforms
from tests.pipelines.geometry import noise, resampled

SIZES = [(9, 9), (8, 8), (7, 12), (13, 6), (1, 5), (1, 1)]


def batch_of(value: float) -> tf.Tensor:
    return tf.constant([value, value], tf.float32)


GEOMETRY = {
    "rotation": transforms.rotation(batch_of(0.7)),
    "quarter_turn": transforms.quarter_turn(batch_of(0.3)),
    "translation": transforms.translation(batch_of(1.25), batch_of(-2.6)),
    "shearing": transforms.shearing(batch_of(-0.4)),
    "scaling": transforms.scaling(batch_of(0.6), batch_of(1.7)),
    "mirror": transforms.scaling(batch_of(1.0), batch_of(-1.0)),
}
GEOMETRY["all"] = (
    GEOMETRY["rotation"] @ GEOMETRY["translation"] @ GEOMETRY["shearing"] @ GEOMETRY["scaling"]
)


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resampling_agrees_with_scipy(name, height, width):
    images, matrix = noise(height, width), GEOMETRY[name]
    result = transforms.resample(images, matrix).numpy()
    for image, one, shown in zip(images, matrix.numpy(), result, strict=True):
        np.testing.assert_allclose(shown, resampled(image, one), atol=0.02)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mirror_images_are_exact(height, width):
    images = noise(height, width)
    across = transforms.resample(images, transforms.scaling(batch_of(1.0), batch_of(-1.0)))
    upside = transforms.resample(images, transforms.scaling(batch_of(-1.0), batch_of(1.0)))
    assert np.array_equal(across, images[:, :, ::-1])
    assert np.array_equal(upside, images[:, ::-1])


@pytest.mark.parametrize("side", [1, 6, 7])
@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_are_exact(side, quarters):
    images = noise(side, side)
    turned = transforms.resample(images, transforms.quarter_turn(batch_of(quarters / 4 + 0.1)))
    assert np.array_equal(turned, np.rot90(images, -quarters, axes=(1, 2)))


def test_recolouring_applies_the_matrix_and_clips():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    matrix = random.uniform(-1, 1, (2, 4, 4)).astype(np.float32)
    matrix[:, :3, 3] *= 100
    mixed = np.einsum("bij,bhwj->bhwi", matrix[:, :3, :3], images) + matrix[:, None, None, :3, 3]
    expected = np.clip(mixed, 0, 255)
    assert 0 < (expected == 0).sum() < expected.size  # else clipping is not seen
    np.testing.assert_allclose(transforms.recolour(images, matrix), expected, atol=1e-3)
