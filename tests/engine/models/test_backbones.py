"""The table of backbones: complete, and what becomes of weights that are missing or do not fit."""

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from engine.core.errors import UserError
from engine.models.backbones import BACKBONES
from tests.engine import small, tiny

KERAS = {name.lower() for name, kind in vars(keras.applications).items() if callable(kind)}
SHAPE = (32, 32, 3)


def test_every_model_of_keras_applications_has_an_entry():
    ours = {name.replace("_", "") for name in BACKBONES if name != tiny.NAME}
    lite = {name for name in ours if "lite" in name}
    assert len(KERAS) > 30
    assert ours - lite == KERAS


def outcome(name: str, weights: str, pixels: np.ndarray) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(pixels.shape[1:])
    # A layer before the backbone, as the classifier has one.
    scaled = keras.layers.Rescaling(1.0, name="scale")(inputs)
    model = keras.Model(inputs, BACKBONES[name].build(scaled, weights))
    return model, np.array(model(pixels, training=False))


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mobilenet_v2", "MobileNetV2"),
        pytest.param("efficientnet_b0", "EfficientNetB0", marks=pytest.mark.slow),
    ],
)
def test_weight_file_of_keras_is_loaded(name, kind, tmp_path):
    keras.utils.set_random_seed(7)
    theirs = getattr(keras.applications, kind)(weights=None, include_top=False, input_shape=SHAPE)
    small.enliven(theirs)
    file = str(tmp_path / "own.weights.h5")
    theirs.save_weights(file)
    # EfficientNet's own scaling, which ours is without, only divides where nothing adapted it.
    factor = 255 if kind == "EfficientNetB0" else 1
    pixels = small.smooth_images(SHAPE[0])[:3]
    expected = np.array(theirs(pixels, training=False))
    largest = np.abs(expected).max()
    _, features = outcome(name, file, pixels / factor)
    assert np.abs(features - expected).max() < 1e-4 * largest
    _, others = outcome(name, "none", pixels / factor)
    assert np.abs(others - expected).max() > 0.1 * largest


def test_efficientnet_has_no_scaling_layers():
    model = outcome("efficientnet_b0", "none", noise())[0]
    kinds = [type(layer).__name__ for layer in model.layers if layer.name != "scale"]
    assert "Rescaling" not in kinds
    assert "Normalization" not in kinds
    assert model.layers[2].name == "stem_conv_pad"


def test_missing_weight_file_is_named():
    with pytest.raises(UserError, match=r"--weights=gone\.h5: no such file; allowed: imagenet"):
        outcome("mobilenet_v2", "gone.h5", noise())


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_weight_file_that_does_not_fit_is_named(name, tmp_path):
    file = str(tmp_path / "other.weights.h5")
    small.network().model.save_weights(file)
    with pytest.raises(UserError, match=r"other\.weights\.h5") as caught:
        outcome(name, file, noise())
    assert "\n" not in str(caught.value)


def test_failed_download_of_weights_is_one_line(monkeypatch):
    def no_connection(*_, **__):
        raise Exception("URL fetch failure on https://storage.example: None -- no route\nmore")

    monkeypatch.setattr(file_utils, "get_file", no_connection)
    with pytest.raises(UserError, match=r"MobileNetV2 could not be fetched.*--weights=FILE") as e:
        outcome("mobilenet_v2", "imagenet", noise())
    assert "\n" not in str(e.value)
    assert "efficientnet_lite0" in str(e.value)
