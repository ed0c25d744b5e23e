"""The table of backbones: how to build each, and how to scale its pixels.

An entry has its network's input size, the scaling that its weights were trained with, the names of
its stages, and the source of its weights. No preprocessing function of another library runs:
scaling is part of the model.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from engine.core.errors import UserError
from engine.core.recipe import SOURCES_OF_WEIGHTS


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One network.

    Attributes:
      build: (pixels, weights, include_top=False) -> features, symbolic [B, h, w, c]; with
        include_top the probabilities of the 1,000 classes of ImageNet, [B, 1000]. pixels are
        symbolic [B, H, W, 3], scaled; weights is `imagenet`, `none`, or the path of a weight file.
      image_size: the side in pixels that the weights were trained at.
      scaling: a key of SCALINGS.
      stages: a pattern of layer names. Without a group, each match is the output of a stage of that
        name; with a group, layers that share the group's text form the stage of that name.
      fine_tune_from: the stage from which everything upward trains where `bin/benchmark` puts this
        network in the place of a recipe's.
      layers: a pattern of the names of all layers, where `stages` is a list of names; other names
        are refused before the network is built. None where only the network can tell.
    """

    build: Callable[..., Any]
    image_size: int
    scaling: str
    stages: str
    fine_tune_from: str
    layers: str | None = None


@dataclasses.dataclass(frozen=True)
class Scaling:
    """(pixel - mean) / deviation for each channel, red, green, blue; `bgr` reverses these."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool = False


SCALINGS: dict[str, Scaling] = {
    # To -1 … 1, as Google's networks.
    "symmetric": Scaling((127.5,) * 3, (127.5,) * 3),
    # EfficientNetV2 S, M and L.
    "half": Scaling((128.0,) * 3, (128.0,) * 3),
    # EfficientNet-Lite: whole numbers, for its int8 variants.
    "lite": Scaling((127.0,) * 3, (128.0,) * 3),
    # Mean and deviation of ImageNet, as torchvision uses them.
    "standard": Scaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    # Caffe: blue first, mean subtracted, no division.
    "caffe": Scaling((123.68, 116.779, 103.939), (1.0,) * 3, bgr=True),
}


_LITE_STAGES = ("stem", *(f"block{number}" for number in range(1, 8)), "top")
_LITE_LAYERS = r"(?:stem|block\d[a-z]|top)_\w+|pool|hidden|logits"


def _lite(variant: str, size: int) -> Backbone:
    def build(pixels: Any, weights: str, include_top: bool = False) -> Any:
        from engine.models import efficientnet_lite

        return efficientnet_lite.build(variant, pixels, weights, include_top)

    return Backbone(build, size, "lite", "|".join(_LITE_STAGES), "block6", _LITE_LAYERS)


def _keras(
    name: str,
    size: int,
    scaling: str,
    stages: str,
    fine_tune_from: str,
    make: Callable[..., Any] | None = None,
) -> Backbone:
    def build(pixels: Any, weights: str, include_top: bool = False) -> Any:
        return (make or _application)(name, pixels, weights, include_top).output

    return Backbone(build, size, scaling, stages, fine_tune_from)


def _application(name: str, pixels: Any, weights: str, include_top: bool) -> Any:
    """Builds a model of keras.applications over these pixels.

    Raises:
      UserError: its weights could not be fetched, or the file does not fit.
    """
    import keras

    from engine.models import weight_files

    make = getattr(keras.applications, name)
    arguments: dict[str, Any] = {"input_tensor": pixels, "include_top": include_top}
    if "include_preprocessing" in inspect.signature(make).parameters:
        arguments["include_preprocessing"] = False
    source = "imagenet" if weights == "imagenet" else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of sizes other than that of its weights
            model = make(weights=source, **arguments)
    except Exception as error:  # Keras raises bare Exception where a download fails
        if source is None:
            raise
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise UserError(
            f"the ImageNet weights of {name} could not be fetched ({reason}); connect once, "
            "give --weights=FILE or --weights=none, or use --backbone=efficientnet_lite0, "
            "whose weights are installed"
        ) from None
    if weights not in SOURCES_OF_WEIGHTS:
        weight_files.load_keras_file(model, name, weights)
    return model


def _from_stem(name: str, pixels: Any, weights: str, include_top: bool) -> Any:
    """Builds EfficientNet without its scaling layers, which the classifier has already.

    Keras builds one of them for `imagenet` only, so a run that is loaded, with weights from its own
    files, would have another network than the one that was trained.
    """
    import keras

    model = _application(name, keras.Input(pixels.shape[1:]), weights, include_top)
    inner = keras.Model(model.get_layer("stem_conv_pad").input, model.output)
    copy = keras.models.clone_model(inner, input_tensors=pixels)
    copy.set_weights(inner.get_weights())
    return copy.layers[-1]  # `copy.output` would begin at an input of its own, not at `pixels`


_CONCAT, _RESNET = r"conv\d+_block\d+_concat", r"conv\d_block\d+_out"
_MBCONV, _CONVNEXT = r"(block\d)[a-z]_.*", r".*(stage_\d_block_\d+)_.*"
_INCEPTION_RESNET = r"mixed_\d[ab]|block\d+_\d+_ac|conv_7b_ac"
_NASNET, _V3 = r"(?:normal|reduction)_concat_\w+", r"(expanded_conv(?:_\d+)?)_.*"

BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": _lite("lite0", 224),
    "efficientnet_lite1": _lite("lite1", 240),
    "efficientnet_lite2": _lite("lite2", 260),
    "inception_v3": _keras("InceptionV3", 299, "symmetric", r"mixed\d+", "mixed9"),
    "inception_resnet_v2": _keras(
        "InceptionResNetV2", 299, "symmetric", _INCEPTION_RESNET, "block8_9_ac"
    ),
    "xception": _keras("Xception", 299, "symmetric", r"(block\d+)_.*", "block13"),
    "vgg16": _keras("VGG16", 224, "caffe", r"block\d_pool", "block5_pool"),
    "vgg19": _keras("VGG19", 224, "caffe", r"block\d_pool", "block5_pool"),
    "resnet50": _keras("ResNet50", 224, "caffe", _RESNET, "conv5_block1_out"),
    "resnet101": _keras("ResNet101", 224, "caffe", _RESNET, "conv5_block1_out"),
    "resnet152": _keras("ResNet152", 224, "caffe", _RESNET, "conv5_block1_out"),
    "resnet50_v2": _keras("ResNet50V2", 224, "symmetric", _RESNET, "conv5_block1_out"),
    "resnet101_v2": _keras("ResNet101V2", 224, "symmetric", _RESNET, "conv5_block1_out"),
    "resnet152_v2": _keras("ResNet152V2", 224, "symmetric", _RESNET, "conv5_block1_out"),
    "densenet121": _keras("DenseNet121", 224, "standard", _CONCAT, "conv5_block1_concat"),
    "densenet169": _keras("DenseNet169", 224, "standard", _CONCAT, "conv5_block1_concat"),
    "densenet201": _keras("DenseNet201", 224, "standard", _CONCAT, "conv5_block1_concat"),
    "mobilenet": _keras("MobileNet", 224, "symmetric", r"conv_pw_\d+_relu", "conv_pw_12_relu"),
    "mobilenet_v2": _keras("MobileNetV2", 224, "symmetric", r"(block_\d+)_.*", "block_14"),
    "mobilenet_v3_small": _keras("MobileNetV3Small", 224, "symmetric", _V3, "expanded_conv_8"),
    "mobilenet_v3_large": _keras("MobileNetV3Large", 224, "symmetric", _V3, "expanded_conv_12"),
    "nasnet_mobile": _keras("NASNetMobile", 224, "symmetric", _NASNET, "normal_concat_10"),
    "nasnet_large": _keras("NASNetLarge", 331, "symmetric", _NASNET, "normal_concat_16"),
    "efficientnet_b0": _keras("EfficientNetB0", 224, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b1": _keras("EfficientNetB1", 240, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b2": _keras("EfficientNetB2", 260, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b3": _keras("EfficientNetB3", 300, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b4": _keras("EfficientNetB4", 380, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b5": _keras("EfficientNetB5", 456, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b6": _keras("EfficientNetB6", 528, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_b7": _keras("EfficientNetB7", 600, "standard", _MBCONV, "block7", _from_stem),
    "efficientnet_v2_b0": _keras("EfficientNetV2B0", 224, "standard", _MBCONV, "block6"),
    "efficientnet_v2_b1": _keras("EfficientNetV2B1", 240, "standard", _MBCONV, "block6"),
    "efficientnet_v2_b2": _keras("EfficientNetV2B2", 260, "standard", _MBCONV, "block6"),
    "efficientnet_v2_b3": _keras("EfficientNetV2B3", 300, "standard", _MBCONV, "block6"),
    "efficientnet_v2_s": _keras("EfficientNetV2S", 384, "half", _MBCONV, "block6"),
    "efficientnet_v2_m": _keras("EfficientNetV2M", 480, "half", _MBCONV, "block7"),
    "efficientnet_v2_l": _keras("EfficientNetV2L", 480, "half", _MBCONV, "block7"),
    "convnext_tiny": _keras("ConvNeXtTiny", 224, "standard", _CONVNEXT, "stage_3_block_0"),
    "convnext_small": _keras("ConvNeXtSmall", 224, "standard", _CONVNEXT, "stage_3_block_0"),
    "convnext_base": _keras("ConvNeXtBase", 224, "standard", _CONVNEXT, "stage_3_block_0"),
    "convnext_large": _keras("ConvNeXtLarge", 224, "standard", _CONVNEXT, "stage_3_block_0"),
    "convnext_xlarge": _keras("ConvNeXtXLarge", 224, "standard", _CONVNEXT, "stage_3_block_0"),
}
