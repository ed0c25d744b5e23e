"""The two resamplings and their matrices, against SciPy, NumPy and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from pipelines.augment import transforms
from tests.pipelines.geometry import noise, resampled

SIZES = [(9, 9), (8, 8), (7, 12), (13, 6), (1, 5), (1, 1)]


def batch_of(value: float) -> tf.Tensor:
    return tf.constant([value, value], tf.float32)


# name: between what its values lie, the values of its opposite, where the point y + i x goes
MOVES = {
    "rotation": ([(-4, 4)], lambda a: [-a], lambda z, a: z * np.exp(1j * a)),
    "quarter_turn": (
        [(0, 0.96875)],
        lambda u: [(4 - np.floor(4 * u)) % 4 / 4],
        lambda z, u: z * 1j ** np.floor(4 * u),
    ),
    "translation": ([(-9, 9)] * 2, lambda y, x: [-y, -x], lambda z, y, x: z + y + 1j * x),
    "shearing": (
        [(-1.25, 1.25)],
        None,
        lambda z, a: z.real * np.cos(a) + 1j * (z.imag - z.real * np.sin(a)),
    ),
    "scaling": (
        [(0.25, 2)] * 2,
        lambda y, x: [1 / y, 1 / x],
        lambda z, y, x: z.real * y + 1j * z.imag * x,
    ),
}
BATCH = 3


def drawn(data, name):
    """Values for a move, float32, one row for each that it takes; a column for each image."""
    columns = [st.tuples(*[st.floats(*ends, width=32)] * BATCH) for ends in MOVES[name][0]]
    return np.array(data.draw(st.tuples(*columns)), np.float32)


def made(name, values):
    return getattr(transforms, name)(*map(tf.constant, np.float32(values))).numpy().astype(float)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(MOVES)), min_size=1, max_size=4))
def test_a_product_moves_points_as_its_factors_do_one_after_the_other(data, names):
    """The rightmost first, and for each image of the batch by its own values."""
    points = np.array([0, 1, 1j, 7 - 4j])
    whole, moved = np.eye(3), np.tile(points, (BATCH, 1))
    for name in names:
        values = drawn(data, name)
        whole = made(name, values) @ whole
        moved = MOVES[name][2](moved, *values.astype(float)[..., None])
    found = whole @ np.stack([points.real, points.imag, np.ones(4)])
    np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], moved, atol=1e-3, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 2], 1)


@pytest.mark.parametrize("name", [name for name in MOVES if MOVES[name][1]])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_move_and_its_opposite_are_none(name, data):
    values = drawn(data, name)
    both = made(name, values) @ made(name, MOVES[name][1](*values))
    np.testing.assert_allclose(both, np.tile(np.eye(3), (BATCH, 1, 1)), atol=1e-5)


angles = st.floats(-4, 4, width=32)
factors = st.floats(0.25, 4, width=32)


@settings(deadline=None, max_examples=60)
@given(one=angles, other=angles, more=factors, less=factors)
def test_two_colour_changes_of_a_kind_are_one_that_does_as_much(one, other, more, less):
    def product(make, a, b):
        return (make(batch_of(a)) @ make(batch_of(b))).numpy()

    mean = tf.constant([[10.0, 200.0, 90.0]] * 2)

    def contrast(factor):
        return transforms.contrast(factor, mean)

    for make, a, b, both in (
        (transforms.hue, one, other, one + other),
        (transforms.saturation, more, less, more * less),
        (transforms.offset, one, other, one + other),
        (contrast, more, less, more * less),
    ):
        expected = make(batch_of(both)).numpy()
        np.testing.assert_allclose(product(make, a, b), expected, atol=1e-3, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(angle=angles, factor=factors, grey=st.floats(0, 255))
def test_hue_and_saturation_leave_greys(angle, factor, grey):
    pixel = np.array([grey, grey, grey, 1])
    for matrix in (transforms.hue(batch_of(angle)), transforms.saturation(batch_of(factor))):
        np.testing.assert_allclose(matrix.numpy() @ pixel, [pixel] * 2, atol=1e-3)


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
def test_resampling_is_scipys(name, height, width):
    images, matrix = noise(height, width), GEOMETRY[name]
    result = transforms.resample(images, matrix).numpy()
    for image, one, shown in zip(images, matrix.numpy(), result, strict=True):
        np.testing.assert_allclose(shown, resampled(image, one), atol=0.02)


def test_each_image_goes_through_its_own_matrix():
    images = noise(10, 8, 3)
    own = transforms.rotation(tf.constant([0.0, 0.3, -1.0]))
    result = transforms.resample(images, own).numpy()
    for image, one, shown in zip(images, own.numpy(), result, strict=True):
        np.testing.assert_allclose(shown, resampled(image, one), atol=0.02)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_identity_leaves_every_pixel(height, width):
    images = noise(height, width)
    assert np.array_equal(transforms.resample(images, transforms.rotation(batch_of(0.0))), images)


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


def test_beyond_the_edge_stand_the_nearest_pixels():
    images = noise(5, 6)
    moved = transforms.resample(
        images, transforms.translation(batch_of(0.0), batch_of(-2.0))
    ).numpy()
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
    np.testing.assert_allclose(transforms.recolour(images, matrix), expected, atol=1e-3)


def test_hue_turns_about_the_axis_of_greys():
    for angle in (-1.0, 0.3, 2.5):
        matrix = transforms.hue(batch_of(angle)).numpy()[0]
        expected = Rotation.from_rotvec(angle * np.ones(3) / np.sqrt(3)).as_matrix()
        np.testing.assert_allclose(matrix[:3, :3], expected, atol=1e-6)
        np.testing.assert_array_equal(matrix[:, 3], [0, 0, 0, 1])


def test_no_saturation_is_pillows_grey():
    images = noise(20, 20)
    grey = transforms.recolour(
        images.astype(np.float32), transforms.saturation(batch_of(0.0))
    ).numpy()
    for image, shown in zip(images, grey, strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"), float)[..., None]
        np.testing.assert_allclose(shown, np.broadcast_to(expected, shown.shape), atol=0.51)


def test_no_contrast_is_the_mean_of_the_grey():
    images = noise(20, 20)
    mean = transforms.mean_colour(images, None)
    np.testing.assert_allclose(mean, images.mean((1, 2)), rtol=1e-5)
    flat = transforms.recolour(images.astype(np.float32), transforms.contrast(batch_of(0.0), mean))
    for image, shown in zip(images, flat.numpy(), strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"), float).mean()
        np.testing.assert_allclose(shown, np.full_like(shown, expected), atol=0.1)


def test_the_mean_colour_is_that_after_the_changes_so_far():
    images = noise(6, 6)
    changed = transforms.offset(batch_of(-9.0)) @ transforms.saturation(batch_of(0.4))
    changed = changed.numpy()
    mixed = np.einsum("bij,bhwj->bhwi", changed[:, :3, :3], images) + changed[:, None, None, :3, 3]
    np.testing.assert_allclose(
        transforms.mean_colour(images, changed), mixed.mean((1, 2)), atol=1e-3
    )


def test_numbers_below_the_limit_are_one():
    assert transforms.below(tf.constant([0.0, 0.49, 0.5, 0.9]), 0.5).numpy().tolist() == [
        1,
        1,
        0,
        0,
    ]
