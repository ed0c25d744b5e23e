import contextlib
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import apply_affine_transform
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.stats import ks_2samp, kstest

from engine.core.call_syntax import Call, parse_calls
from engine.core.errors import UserError
from pipelines.augment import augmentations, changes, transforms
from pipelines.augment.changes import AUGMENTATIONS
from tests.pipelines.augmented import applied, drawn, noise_images
from tests.pipelines.geometry import resampled

BLOG = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip"


def spread(number: float, reach: float, middle: float = 0.0) -> float:
    return middle + (2 * number - 1) * reach


def keras_affine(image: np.ndarray, **values: float) -> np.ndarray:
    """Square images only: for others Keras 3.15 exchanges the middles of rows and columns."""
    places = {"row_axis": 0, "col_axis": 1, "channel_axis": 2}
    return apply_affine_transform(image, fill_mode="nearest", order=1, **places, **values)


def enhanced(kind: type, image: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(kind(Image.fromarray(image.astype(np.uint8))).enhance(factor), float)


def turned_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    matrix = Rotation.from_rotvec(math.radians(degrees) * np.ones(3) / math.sqrt(3)).as_matrix()
    return np.clip(image @ matrix.T, 0, 255)


# What each entry does with its blog's or own default values, written without the module.
REFERENCES = {
    "rotate": lambda image, u: ndimage.rotate(
        image, -spread(u[0], 30), axes=(1, 0), reshape=False, order=1, mode="nearest"
    ),
    "shift": lambda image, u: ndimage.shift(
        image,
        (-spread(u[0], 0.2 * image.shape[0]), -spread(u[1], 0.2 * image.shape[1]), 0),
        order=1,
        mode="nearest",
    ),
    "shear": lambda image, u: keras_affine(image, shear=math.degrees(spread(u[0], 0.2))),
    "zoom": lambda image, u: keras_affine(image, zy=spread(u[0], 0.2, 1), zx=spread(u[1], 0.2, 1)),
    "flip": lambda image, u: image[:, ::-1] if u[0] < 0.5 else image,
    "vertical_flip": lambda image, u: image[::-1] if u[0] < 0.5 else image,
    "turn": lambda image, u: np.rot90(image, -math.floor(4 * u[0])),
    "brightness": lambda image, u: np.clip(image + spread(u[0], 51), 0, 255),
    "contrast": lambda image, u: enhanced(ImageEnhance.Contrast, image, spread(u[0], 0.2, 1)),
    "saturation": lambda image, u: enhanced(ImageEnhance.Color, image, spread(u[0], 0.2, 1)),
    "hue": lambda image, u: turned_hue(image, spread(u[0], 10)),
}


def cropped(image: np.ndarray, u: np.ndarray) -> np.ndarray:
    """As torchvision draws, but for whole pixels; by SciPy."""
    (height, width), rows, columns, y, x = image.shape[:2], 0.0, 0.0, 0.0, 0.0
    for area, aspect in u[:20].reshape(10, 2):
        area = (0.08 + 0.92 * area) * height * width
        aspect = math.exp(spread(aspect, math.log(4 / 3)))
        rows, columns = math.sqrt(area / aspect), math.sqrt(area * aspect)
        if rows <= height and columns <= width:
            break
    y, x = u[20] * (height - rows), u[21] * (width - columns)
    scale = rows / height, columns / width
    # From pixels counted from the middle of the output to those from the middle of the input.
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = y + rows / 2 - height / 2, x + columns / 2 - width / 2
    return resampled(image, matrix)


def by_pillow(change, image: np.ndarray, chosen: bool = True) -> np.ndarray:
    return np.asarray(change(Image.fromarray(image.astype(np.uint8))), float) if chosen else image


REFERENCES |= {
    "random_resized_crop": cropped,
    "sharpness": lambda image, u: enhanced(ImageEnhance.Sharpness, image, spread(u[0], 0.5, 1)),
    "posterize": lambda image, u: by_pillow(lambda i: ImageOps.posterize(i, 4), image, u[0] < 0.5),
    "solarize": lambda image, u: by_pillow(ImageOps.solarize, image, u[0] < 0.5),
    "auto_contrast": lambda image, u: by_pillow(ImageOps.autocontrast, image, u[0] < 0.5),
    "equalize": lambda image, u: by_pillow(ImageOps.equalize, image, u[0] < 0.5),
    "trivial_augment": lambda image, u: trivially_augmented(image, u)[1],
}


def trivially_augmented(image: np.ndarray, u: np.ndarray) -> tuple[str, np.ndarray]:
    """The operation's name and its result: torchvision's table of `_augmentation_space`, by Pillow.

    Geometry by SciPy, with a shear about the middle.
    """
    strengths = {
        "ShearX": np.linspace(0.0, 0.99, 31),
        "ShearY": np.linspace(0.0, 0.99, 31),
        "TranslateX": np.linspace(0.0, 32.0, 31),
        "TranslateY": np.linspace(0.0, 32.0, 31),
        "Rotate": np.linspace(0.0, 135.0, 31),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), np.linspace(0, 0.99, 31)),
        "Posterize": 8 - np.round(np.arange(31) / (30 / 6)),
        "Solarize": np.linspace(255.0, 0.0, 31),
    }
    names = ["Identity", *strengths, "AutoContrast", "Equalize"]
    name, place = names[int(u[0] * 14)], int(u[1] * 31)
    strength = strengths[name][place] if name in strengths else 0.0
    signed = -strength if u[2] < 0.5 else strength
    matrix = np.eye(3)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return name, enhanced(getattr(ImageEnhance, name), image, 1 + signed)
    if name == "Posterize":
        return name, by_pillow(lambda i: ImageOps.posterize(i, int(strength)), image)
    if name == "Solarize":
        return name, by_pillow(lambda i: ImageOps.solarize(i, strength), image)
    if name == "AutoContrast":
        return name, by_pillow(ImageOps.autocontrast, image)
    if name == "Equalize":
        return name, by_pillow(ImageOps.equalize, image)
    if name == "Rotate":
        angle = math.radians(signed)
        matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    place = {"ShearX": (1, 0), "ShearY": (0, 1), "TranslateY": (0, 2), "TranslateX": (1, 2)}
    if name in place:
        matrix[place[name]] = signed
    return name, resampled(image, matrix)


@pytest.mark.parametrize("kind", ["noise", "smooth", "few levels", "one level", "dark"])
@pytest.mark.parametrize(
    "name", ["posterize(3, 1)", "solarize(77, 1)", "auto_contrast(1)", "equalize(1)"]
)
def test_filter_of_whole_levels_equals_pillow(name, kind):
    """To the bit, but for Pillow's autocontrast, which rounds 254.99… down to 254."""
    images = {
        "noise": noise_images(40, 31),
        "smooth": (np.add.outer(np.arange(32), np.arange(40))[None, ..., None] * [1, 2, 3]),
        "few levels": noise_images(40, 31) // 90 * 90,
        "one level": np.full((2, 20, 20, 3), 77),
        "dark": noise_images(40, 31) // 9,
    }[kind].astype(np.uint8)
    operations = {
        "posterize(3, 1)": lambda i: ImageOps.posterize(i, 3),
        "solarize(77, 1)": lambda i: ImageOps.solarize(i, 77),
        "auto_contrast(1)": ImageOps.autocontrast,
        "equalize(1)": ImageOps.equalize,
    }
    result = applied(name, images, drawn(1, len(images)))
    for image, shown in zip(images, result, strict=True):
        expected = by_pillow(operations[name], image)
        np.testing.assert_allclose(shown, expected, atol=1 if "auto" in name else 0)


def test_trivial_augment_draws_every_operation_with_torchvisions_strengths():
    """All 14 x 31 x 2 outcomes."""
    grid = np.stack(np.meshgrid(np.arange(14), np.arange(31), np.arange(2)), -1).reshape(-1, 3)
    numbers = ((grid + 0.5) / [14, 31, 2]).astype(np.float32)
    images = np.repeat(noise_images(24, 24)[:1], len(numbers), 0)
    result, names = applied("trivial_augment", images, numbers), set()
    for u, shown in zip(numbers, result, strict=True):
        name, expected = trivially_augmented(images[0].astype(float), u.astype(float))
        names.add(name)
        exact = name in ("Identity", "Posterize", "Solarize", "Equalize")
        np.testing.assert_allclose(shown, expected, atol=0 if exact else 2, err_msg=f"{name} {u}")
    assert len(names) == 14


def test_random_resized_crop_follows_torchvisions_distribution():
    """Of 100,000 rectangles: those that fit, else the largest; images twice as wide as high."""
    numbers = [tf.constant(u) for u in drawn(22, 100_000).T]
    matrices = transforms.crop(numbers, 0.08, 4 / 3, (100, 200)).numpy()
    rows, columns = 100 * matrices[:, 0, 0], 200 * matrices[:, 1, 1]
    random = np.random.default_rng(5)
    area = random.uniform(0.08, 1, 300_000) * 100 * 200
    aspect = np.exp(random.uniform(-math.log(4 / 3), math.log(4 / 3), 300_000))
    high, wide = np.sqrt(area / aspect), np.sqrt(area * aspect)
    fits = (high <= 100) & (wide <= 200)
    for mine, others in ((rows, high[fits]), (columns, wide[fits])):
        assert ks_2samp(mine, others).statistic < 0.01
    for place, size in ((0, 100), (1, 200)):
        reach = (1 - matrices[:, place, place]) * size / 2
        free = reach > 0
        shifts = matrices[free, place, 2] / reach[free]
        assert kstest(shifts, "uniform", (-1, 2)).statistic < 0.01


def test_crop_without_a_fitting_try_is_the_largest_in_the_middle():
    ones = [tf.constant([0.999])] * 22
    matrix = transforms.crop(ones, 0.9, 4 / 3, (100, 400)).numpy()[0]
    np.testing.assert_allclose(matrix, np.diag([1, 1 / 3, 1]), atol=1e-6)


BY_PILLOW = (
    "contrast",
    "saturation",
    "sharpness",
    "auto_contrast",
    "trivial_augment",
)  # which rounds greys and results to whole levels


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_augmentation_agrees_with_its_reference(name, seed):
    images = noise_images()
    numbers = drawn(augmentations.compose([Call(name)]).draws, seed=seed)
    result = applied(name, images, numbers)
    assert result.dtype == np.float32
    for image, u, shown in zip(images, numbers, result, strict=True):
        expected = REFERENCES[name](image.astype(float), u.astype(float))
        np.testing.assert_allclose(shown, expected, atol=1.6 if name in BY_PILLOW else 0.02)


@pytest.mark.parametrize("text", [*AUGMENTATIONS, "|".join(AUGMENTATIONS)])
def test_augmentation_in_graph_and_tf_data_agrees_with_eager(text):
    images = noise_images()
    change = augmentations.compose(parse_calls(text))
    numbers = drawn(change.draws)
    eager = change.apply(tf.constant(images), tf.constant(numbers)).numpy()
    compiled = tf.function(change.apply)(tf.constant(images), tf.constant(numbers))
    data = tf.data.Dataset.from_tensors((images, numbers)).map(change.apply)
    np.testing.assert_allclose(compiled, eager, atol=1e-3)
    np.testing.assert_allclose(next(iter(data)), eager, atol=1e-3)


def test_blog_chain_agrees_with_keras():
    images, numbers = noise_images(), drawn(7)
    result = applied(BLOG, images, numbers)
    for image, u, shown in zip(images, numbers, result, strict=True):
        expected = keras_affine(
            image.astype(float),
            theta=-spread(u[0], 30),  # a symmetric range: either sign is as likely
            ty=spread(u[1], 0.2 * 15),
            tx=spread(u[2], 0.2 * 15),
            shear=math.degrees(spread(u[3], 0.2)),
            zy=spread(u[4], 0.2, 1),
            zx=spread(u[5], 0.2, 1),
        )
        expected = expected[:, ::-1] if u[6] < 0.5 else expected
        np.testing.assert_allclose(shown, expected, atol=0.03)


@pytest.mark.parametrize(("height", "width"), [(12, 17), (9, 8), (1, 7)])
def test_blog_chain_on_rectangles_agrees_with_scipy(height, width):
    images, numbers = noise_images(height, width), drawn(7).astype(float)
    result = applied(BLOG, images, numbers.astype(np.float32))
    for image, u, shown in zip(images, numbers, result, strict=True):
        turn, slant = math.radians(spread(u[0], 30)), spread(u[3], 0.2)
        cos, sin = math.cos(turn), math.sin(turn)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        shift = np.eye(3)
        shift[:2, 2] = spread(u[1], 0.2 * height), spread(u[2], 0.2 * width)
        shear = np.array([[math.cos(slant), 0, 0], [-math.sin(slant), 1, 0], [0, 0, 1]])
        zoom = np.diag([spread(u[4], 0.2, 1), spread(u[5], 0.2, 1), 1])
        expected = resampled(image, rotation @ shift @ shear @ zoom)
        expected = expected[:, ::-1] if u[6] < 0.5 else expected
        np.testing.assert_allclose(shown, expected, atol=0.03)


def test_default_arguments_are_the_blog_values():
    images, numbers = noise_images(), drawn(7)
    plain = applied("rotate|shift|shear|zoom|flip", images, numbers)
    assert np.array_equal(plain, applied(BLOG, images, numbers))


def test_geometry_and_colour_combine():
    images = noise_images()
    numbers = np.array([[0.2, 0.9], [0.7, 0.1], [0.4, 0.4]], np.float32)
    both = applied("flip|brightness", images, numbers)
    for image, u, shown in zip(images, numbers, both, strict=True):
        expected = REFERENCES["brightness"](REFERENCES["flip"](image.astype(float), u), u[1:])
        np.testing.assert_allclose(shown, expected, atol=0.02)


@contextlib.contextmanager
def uncompiled():
    """So that many chains can be tried: compiling each takes far longer than running it."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def chains(*entries: str) -> st.SearchStrategy:
    return st.lists(st.sampled_from(entries), min_size=1, max_size=4)


def one_after_the_other(entries: list[str], images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    for entry in entries:
        draws = augmentations.compose(parse_calls(entry)).draws
        images, numbers = applied(entry, images, numbers[:, :draws]), numbers[:, draws:]
    return images


@settings(deadline=None, max_examples=30)
@given(entries=chains("flip", "vertical_flip", "turn"), seed=st.integers(0, 99))
@uncompiled()
def test_geometry_chain_agrees_with_single_steps(entries, seed):
    images, numbers = noise_images(7, 7), drawn(len(entries), seed=seed)
    expected = one_after_the_other(entries, images, numbers)
    assert np.array_equal(applied("|".join(entries), images, numbers), expected)


@settings(deadline=None, max_examples=30)
@given(
    entries=chains("brightness(0.1)", "contrast(0.5)", "saturation(0.5)", "hue(15)"),
    seed=st.integers(0, 99),
)
@uncompiled()
def test_colour_chain_agrees_with_single_steps(entries, seed):
    images = np.random.default_rng(seed).integers(118, 138, (3, 5, 4, 3), np.uint8)
    numbers = drawn(len(entries), seed=seed)
    expected = one_after_the_other(entries, images, numbers)
    assert 0 < expected.min() <= expected.max() < 255, "never clipped"
    np.testing.assert_allclose(applied("|".join(entries), images, numbers), expected, atol=1e-2)


@settings(deadline=None, max_examples=30)
@given(entries=chains(*AUGMENTATIONS), seed=st.integers(0, 99))
@uncompiled()
def test_augmentation_does_not_depend_on_the_batch(entries, seed):
    change = augmentations.compose(parse_calls("|".join(entries)))
    images, numbers = noise_images(6, 6), drawn(change.draws, seed=seed)
    together = change.apply(tf.constant(images), numbers).numpy()
    alone = [change.apply(images[[place]], numbers[[place]])[0] for place in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-3)
    backwards = change.apply(images[::-1], numbers[::-1])
    np.testing.assert_allclose(together[::-1], backwards, atol=1e-3)


def test_no_augmentation_returns_the_image():
    change = augmentations.compose(())
    assert change.draws == 0
    assert np.array_equal(
        change.apply(tf.constant(noise_images()), tf.zeros([3, 0])), noise_images()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotat(3)", ["rotat", "did you mean 'rotate'", *AUGMENTATIONS]),
        ("rotate(far)", ["degrees='far'", "rotate(degrees from 0 to 180)"]),
        ("rotate(true)", ["degrees=True"]),
        ("rotate(400)", ["degrees=400", "0 to 180"]),
        ("rotate(1, 2)", ["too many", "rotate(degrees from 0 to 180)"]),
        ("shift(-0.1)", ["share=-0.1", "0 to 1"]),
        ("zoom(depth=1)", ["depth", "zoom(reach from 0 to 1)"]),
        ("flip(2)", ["probability=2", "0 to 1"]),
        ("turn(1)", ["turn()"]),
        ("random_resized_crop(0)", ["scale=0;", "scale from 0.01 to 1, ratio from 1 to 10"]),
        ("posterize(2.5)", ["bits=2.5; allowed: a whole number, 1 to 8"]),
    ],
)
def test_invalid_augmentation_is_refused_with_allowed_values(text, words):
    with pytest.raises(UserError) as caught:
        changes.parse_changes(parse_calls(text))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_turn_of_rectangular_images_is_refused():
    with pytest.raises(UserError, match=r"^augmentation 'turn' with images of 9x8;.*size=N$"):
        applied("turn", noise_images(9, 8), drawn(1))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_has_a_docstring(name):
    assert AUGMENTATIONS[name].__doc__.strip().endswith(".")


def test_warm_up_traces_the_shape():
    change = augmentations.compose(parse_calls("rotate(30)|brightness"))
    change.warm(2, 8, 6).join()
    before = transforms.resample.experimental_get_tracing_count()
    images = tf.zeros((2, 8, 6, 3), tf.uint8)
    change.apply(images, tf.zeros((2, change.draws)))
    assert transforms.resample.experimental_get_tracing_count() == before > 0
