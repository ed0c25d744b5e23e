"""Grad-CAM: the formula by hand and by a tape, any backbone, and heat that lies on the animal."""

import colorsys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from engine.inference import gradcam
from engine.models import classifier
from engine.models.backbones import BACKBONES
from tests.engine import small
from tests.engine.backbone_families import FAMILIES

QUICK = ("efficientnet_lite0", "resnet50_v2", "convnext_tiny")
SIZES = {**dict.fromkeys(BACKBONES, 75), **FAMILIES}


def random_images(side: int = small.SIDE) -> np.ndarray:
    return small.smooth_images(side).astype(np.uint8)


def lively(hidden_units: int = 0) -> classifier.Classifier:
    made = small.network(hidden_units)
    small.enliven(made.model)
    return made


def maps_of(made: classifier.Classifier, images: np.ndarray) -> np.ndarray:
    inner = keras.Model(made.model.inputs[0], made.stages["top"])
    return inner(images.astype(np.float32), training=False).numpy()


def scaled(raw: np.ndarray) -> np.ndarray:
    """The positive part of [B, h, w], each divided by its maximum."""
    positive = np.maximum(raw, 0)
    most = positive.max((1, 2), keepdims=True)
    return np.divide(positive, most, out=np.zeros_like(positive), where=most > 0)


def test_before_one_dense_layer_it_is_the_class_activation_map():
    """Zhou et al. 2016: the maps, weighted as the layer weights their means."""
    made, images = lively(), random_images()
    classes = np.arange(len(images)) % small.CLASSES
    kernel = made.head.kernel.numpy()[:, classes].T
    expected = scaled(np.einsum("bhwc,bc->bhw", maps_of(made, images), kernel))
    found = gradcam.make(made)(images, classes)
    assert found.dtype == np.float32
    assert found.shape == (8, 4, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert expected.any((1, 2)).sum() > 4, "else little was compared"


def test_behind_a_hidden_layer_it_is_what_small_steps_say():
    """The hidden layer by hand, and each map moved a little, in float64."""
    made, images = lively(hidden_units=5), random_images()
    maps, classes = maps_of(made, images).astype(np.float64), np.full(len(images), 2)
    weights = [v.numpy().astype(np.float64) for v in made.model.weights[-4:]]

    def logit(means: np.ndarray) -> np.ndarray:
        hidden = np.maximum(means @ weights[0] + weights[1], 0)
        return (hidden @ weights[2] + weights[3])[:, 2]

    means, step = maps.mean((1, 2)), 1e-6
    slopes = np.stack([logit(means + step * one) - logit(means - step * one)
                       for one in np.eye(maps.shape[-1])], -1) / (2 * step)  # fmt: skip
    expected = scaled(np.einsum("bhwc,bc->bhw", maps, slopes))
    np.testing.assert_allclose(gradcam.make(made)(images, classes), expected, atol=1e-4)
    assert expected.any((1, 2)).sum() > 2, "else little was compared"


def test_behind_a_hidden_layer_it_is_what_a_tape_says():
    made, images = lively(hidden_units=5), random_images()
    above = keras.Model(made.stages["top"], made.model.outputs[0])
    maps = tf.constant(maps_of(made, images))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        chosen = above(maps)[:, 1]
    weights = tape.gradient(chosen, maps).numpy().mean((1, 2))
    expected = scaled(np.einsum("bhwc,bc->bhw", maps, weights))
    np.testing.assert_allclose(gradcam.make(made)(images, [1] * 8), expected, atol=1e-4)


def test_where_nothing_speaks_for_a_class_all_is_0():
    made = lively()
    made.head.kernel.assign(-np.abs(made.head.kernel.numpy()))
    found = gradcam.make(made)(random_images(), np.zeros(8, int))
    assert np.array_equal(found, np.zeros_like(found))


def test_it_is_traced_once_for_any_number_of_images(monkeypatch):
    traces, made = [], lively()
    plain = gradcam.fold

    def counted(model):
        forward = plain(model)
        return lambda inputs: (traces.append(inputs.shape), forward(inputs))[1]

    monkeypatch.setattr(gradcam, "fold", counted)
    heat, images = gradcam.make(made), random_images()
    alone = np.concatenate([heat(images[n : n + 1], [n % 3]) for n in range(8)])
    np.testing.assert_allclose(heat(images, np.arange(8) % 3), alone, atol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("hidden_units", [0, 4])
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_any_backbone_can_be_looked_into(name, hidden_units):
    side = SIZES[name]
    recipe = small.recipe(backbone=name, image_size=(side, side), hidden_units=hidden_units)
    made = classifier.build(recipe, 3)
    small.enliven(made.model)
    found = gradcam.make(made)(random_images(side)[:2], [0, 2])
    assert found.shape[0] == 2
    for heat in found:
        assert heat.min() >= 0
        assert heat.max() == pytest.approx(1) or not heat.any()
    keras.backend.clear_session()


@pytest.mark.parametrize(
    ("kind", "channels"),
    [("MobileNet", 1024), ("MobileNetV3Small", 576), ("EfficientNetV2B0", 1280), ("VGG16", 512)],
)
def test_imagenets_networks_have_their_last_maps_found(kind, channels):
    """Behind squeezes and excitations, and before convolutions that follow the pooling."""
    model = getattr(keras.applications, kind)(weights=None, input_shape=(224, 224, 3))
    maps = gradcam.last_maps(model)
    assert maps.shape[1:] == (7, 7, channels)
    keras.backend.clear_session()


def photographs(folder, count: int) -> np.ndarray:
    from PIL import Image

    files = sorted(folder.glob("*"))[:count]
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files]
    return np.stack([np.asarray(image) for image in images])


def test_heat_follows_the_animal(cats_dogs):
    """Of a cat above a dog in one image: more of it is on the cat where a cat is asked for.

    Asked is the ImageNet network: 281 is the tabby cat, 207 the golden retriever.
    """
    cats, dogs = (photographs(cats_dogs / "val" / kind, 40) for kind in ("cats", "dogs"))
    pairs = np.concatenate([cats[:, ::2], dogs[:, ::2]], 1)
    heat = gradcam.make_imagenet("efficientnet_lite0")
    above = []
    for label in (281, 207):
        found = heat(pairs, [label] * len(pairs))
        above.append(found[:, :3].sum((1, 2)) / found.sum((1, 2)))
    assert stats.wilcoxon(above[0], above[1], alternative="greater").pvalue < 1e-4


def test_an_overlay_is_blue_where_it_is_cold_and_yellow_where_it_is_hot():
    image = np.full((40, 60, 3), 128, np.uint8)
    found = gradcam.overlay(image, np.array([[0.0, 1.0]], np.float32))
    assert (found.dtype, found.shape) == (np.uint8, image.shape)
    cold, hot = (colorsys.rgb_to_hsv(*found[20, x] / 255) for x in (2, 57))
    assert 0.5 < cold[0] < 0.75, "blue"
    assert 0.1 < hot[0] < 0.2, "yellow"
    assert hot[2] > cold[2] + 0.2, "and lighter, for those who see no colours"
    light = found[20].astype(int).sum(-1)
    assert np.all(np.diff(light) >= -2), "smoothly from one to the other"


def test_an_overlay_shows_the_image_too():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    found = gradcam.overlay(image, np.zeros((2, 2)))
    assert np.all(found[:, 4:].astype(int) - found[:, :4] > 80)
