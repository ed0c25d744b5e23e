"""Grad-CAM equals the formula by hand, for any backbone, and finds the animal."""

import colorsys

import keras
import numpy as np
import pytest
from scipy import stats

from engine.inference import gradcam
from engine.models import classifier
from engine.models.backbones import BACKBONES
from tests.engine import small
from tests.engine.backbone_families import FAMILIES

SIZES = {**dict.fromkeys(BACKBONES, 75), **FAMILIES}


def random_images(side: int = small.SIDE) -> np.ndarray:
    return small.smooth_images(side).astype(np.uint8)


def network(hidden_units: int = 0) -> classifier.Classifier:
    built = small.network(hidden_units)
    small.enliven(built.model)
    return built


def last_maps(net: classifier.Classifier, images: np.ndarray) -> np.ndarray:
    inner = keras.Model(net.model.inputs[0], net.stages["top"])
    return inner(images.astype(np.float32), training=False).numpy()


def scaled(raw: np.ndarray) -> np.ndarray:
    """The positive part of [B, h, w], each divided by its maximum."""
    positive = np.maximum(raw, 0)
    maximum = positive.max((1, 2), keepdims=True)
    return np.divide(positive, maximum, out=np.zeros_like(positive), where=maximum > 0)


def test_heat_before_one_dense_layer_is_the_class_activation_map():
    """Zhou et al. 2016: the maps, weighted as the layer weights their means.

    The weights are less their mean over the classes, which no probability depends on.
    """
    net, images = network(), random_images()
    classes = np.arange(len(images)) % small.CLASSES
    kernel = net.head.kernel.numpy()
    kernel = (kernel - kernel.mean(1, keepdims=True))[:, classes].T
    expected = scaled(np.einsum("bhwc,bc->bhw", last_maps(net, images), kernel))
    heat = gradcam.from_classifier(net)(images, classes)
    assert heat.dtype == np.float32
    assert heat.shape == (8, 4, 4)
    np.testing.assert_allclose(heat, expected, atol=1e-4)
    assert expected.any((1, 2)).sum() > 4, "otherwise little is compared"


def test_heat_behind_a_hidden_layer_equals_finite_differences():
    """The hidden layer by hand, and each map moved a little, in float64."""
    net, images = network(hidden_units=5), random_images()
    maps, classes = last_maps(net, images).astype(np.float64), np.full(len(images), 2)
    weights = [v.numpy().astype(np.float64) for v in net.model.weights[-4:]]

    def logit(means: np.ndarray) -> np.ndarray:
        hidden = np.maximum(means @ weights[0] + weights[1], 0)
        logits = hidden @ weights[2] + weights[3]
        return logits[:, 2] - logits.mean(1)

    means, step = maps.mean((1, 2)), 1e-6
    slopes = np.stack([logit(means + step * one) - logit(means - step * one)
                       for one in np.eye(maps.shape[-1])], -1) / (2 * step)  # fmt: skip
    expected = scaled(np.einsum("bhwc,bc->bhw", maps, slopes))
    np.testing.assert_allclose(gradcam.from_classifier(net)(images, classes), expected, atol=1e-4)
    assert expected.any((1, 2)).sum() > 2, "otherwise little is compared"


def test_heat_without_evidence_is_0():
    net = network()
    kernel = np.zeros(net.head.kernel.shape)
    kernel[:, 0] = -1
    net.head.kernel.assign(kernel)
    heat = gradcam.from_classifier(net)(random_images(), np.zeros(8, int))
    assert np.array_equal(heat, np.zeros_like(heat))


def test_heat_does_not_depend_on_what_all_logits_share():
    """A head learns its weights but for a common part, which stays as it was drawn."""
    net, images = network(), random_images()
    classes = np.arange(8) % small.CLASSES
    before = gradcam.from_classifier(net)(images, classes)
    net.head.kernel.assign_sub(np.full(net.head.kernel.shape, 10.0))
    np.testing.assert_allclose(gradcam.from_classifier(net)(images, classes), before, atol=1e-4)
    assert before.any((1, 2)).sum() > 4


def test_gradcam_traces_once_for_any_number_of_images(monkeypatch):
    traces, net = [], network()
    plain = gradcam.fold

    def counted(model):
        forward = plain(model)
        return lambda inputs: (traces.append(inputs.shape), forward(inputs))[1]

    monkeypatch.setattr(gradcam, "fold", counted)
    explain, images = gradcam.from_classifier(net), random_images()
    alone = np.concatenate([explain(images[n : n + 1], [n % 3]) for n in range(8)])
    np.testing.assert_allclose(explain(images, np.arange(8) % 3), alone, atol=1e-5)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "hidden_units"),
    [
        ("efficientnet_lite0", 4),
        *(pytest.param(name, n, marks=pytest.mark.slow) for name in BACKBONES for n in (0, 4)),
    ],
)
def test_gradcam_explains_any_backbone(name, hidden_units):
    side = SIZES[name]
    recipe = small.recipe(backbone=name, image_size=(side, side), hidden_units=hidden_units)
    net = classifier.build(recipe, 3)
    small.enliven(net.model)
    heats = gradcam.from_classifier(net)(random_images(side)[:2], [0, 2])
    assert heats.shape[0] == 2
    for heat in heats:
        assert heat.min() >= 0
        assert heat.max() == pytest.approx(1) or not heat.any()
    keras.backend.clear_session()


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("MobileNetV3Small", 576),
        pytest.param("MobileNet", 1024, marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", 1280, marks=pytest.mark.slow),
        pytest.param("VGG16", 512, marks=pytest.mark.slow),
    ],
)
def test_last_maps_of_imagenet_networks_are_found(kind, channels):
    """After squeeze and excitation, and before convolutions that follow the pooling."""
    model = getattr(keras.applications, kind)(weights=None, input_shape=(224, 224, 3))
    maps = gradcam.last_maps(model)
    assert maps.shape[1:] == (7, 7, channels)
    keras.backend.clear_session()


def photographs(folder, count: int) -> np.ndarray:
    from PIL import Image

    files = sorted(folder.glob("*"))[:count]
    images = [Image.open(file).convert("RGB").resize((224, 224)) for file in files]
    return np.stack([np.asarray(image) for image in images])


def test_heat_follows_the_explained_animal(cats_dogs):
    """In an image with a cat above a dog, more heat is on the cat when a cat is explained.

    Of the ImageNet classes, 281 is the tabby cat and 207 the golden retriever.
    """
    cats, dogs = (photographs(cats_dogs / "val" / kind, 40) for kind in ("cats", "dogs"))
    pairs = np.concatenate([cats[:, ::2], dogs[:, ::2]], 1)
    explain = gradcam.from_imagenet("efficientnet_lite0")
    above = []
    for label in (281, 207):
        heat = explain(pairs, [label] * len(pairs))
        above.append(heat[:, :3].sum((1, 2)) / heat.sum((1, 2)))
    assert stats.wilcoxon(above[0], above[1], alternative="greater").pvalue < 1e-4


def test_overlay_goes_from_blue_to_yellow():
    image = np.full((40, 60, 3), 128, np.uint8)
    blend = gradcam.overlay(image, np.array([[0.0, 1.0]], np.float32))
    assert (blend.dtype, blend.shape) == (np.uint8, image.shape)
    cold, hot = (colorsys.rgb_to_hsv(*blend[20, x] / 255) for x in (2, 57))
    assert 0.5 < cold[0] < 0.75, "blue"
    assert 0.1 < hot[0] < 0.2, "yellow"
    assert hot[2] > cold[2] + 0.2, "and lighter, for those who see no colours"
    light = blend[20].astype(int).sum(-1)
    assert np.all(np.diff(light) >= -2), "smoothly from one to the other"


def test_overlay_shows_the_image():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    blend = gradcam.overlay(image, np.zeros((2, 2)))
    assert np.all(blend[:, 4:].astype(int) - blend[:, :4] > 80)
