"""Reads PyTorch's older weight files, which are not zip archives, without executing anything.

Such a file is five pickles in a row (a magic number, a protocol number, properties of the system
that wrote it, the state dict, the keys of its storages), then for each key the number of elements,
int64, and the elements themselves. The layout is that of `torch.serialization._legacy_save`.

`inert_pickle` interprets the pickles, and every length is compared with the size of the file before
memory is allocated.
"""

from __future__ import annotations

import io
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.core.errors import UserError
from engine.models.inert_pickle import RefusedError, Storage, Tensor, interpret, kind, shown

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_HELP = (
    "allowed: a whole state dict, saved by "
    "torch.save(model.state_dict(), FILE, _use_new_zipfile_serialization=False)"
)

# The pickles of a network of a thousand layers take less than one of these 32 MiB.
_MAX_HEAD_BYTES = 1 << 25
# Tensors may share a storage. Their sum is limited to this multiple of the file's size, or a small
# file could demand any amount of memory.
_MAX_GROWTH = 2

# How numbers are stored, where that is not NumPy's own type of the same name.
_STORED = {"bfloat16": "uint16", "bool": "uint8"}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of a state dict, in the order of the file.

    Returns:
      name -> contiguous array of the tensor's shape: float64, float32, float16, int64, int32,
      int16, int8, uint8 or bool. bfloat16 becomes float32, without loss.

    Raises:
      UserError: the file can't be read, is cut off or longer than it says, or holds anything but a
        state dict of dense tensors.
    """
    try:
        # Opening a named pipe would wait for its writer, so check first.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RefusedError("is not a regular file")
        with Path(path).open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; check the path") from None
    except RefusedError as fault:
        raise UserError(f"{path}: {fault}; {_HELP}") from None


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    head = io.BytesIO(file.read(min(size, _MAX_HEAD_BYTES)))
    if head.getvalue().startswith(b"PK\x03\x04"):
        raise RefusedError("is a zip archive, PyTorch's newer format")
    _check_preamble(head)
    state, storages = interpret(head)
    _check_state(state, size)
    keys, _ = interpret(head)
    _check_keys(keys, storages)

    declared = sum(8 + _bytes(storage) for storage in storages.values())
    remaining = size - head.tell()
    if declared != remaining:
        raise RefusedError(f"should end with {shown(declared)} bytes of numbers, has {remaining}")
    file.seek(head.tell())
    raw = {key: _numbers(file, storages[key]) for key in keys}
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in state.items()}


def _check_preamble(head: BinaryIO) -> None:
    magic, _ = interpret(head)
    if magic != _MAGIC:
        raise RefusedError("does not start with PyTorch's magic number")
    protocol, _ = interpret(head)
    if protocol != _PROTOCOL:
        raise RefusedError(f"has protocol number {shown(protocol)}, known is {_PROTOCOL}")
    system, _ = interpret(head)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("was not written on a little-endian machine")


def _check_keys(keys: Any, storages: dict[str, Storage]) -> None:
    strings = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not strings or len(keys) != len(storages) or set(keys) != set(storages):
        raise RefusedError("lists other storages than its tensors use")


def _check_state(state: Any, file_size: int) -> None:
    """Checks that tensors are inside their storages, and their sum in proportion to the file."""
    if not isinstance(state, dict):
        raise RefusedError(f"holds {kind(state)}, not a dictionary")
    total = 0
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise RefusedError(f"has {kind(tensor)} as {shown(name)}, not a tensor")
        axes = zip(tensor.sizes, tensor.strides, strict=True)
        last = tensor.offset + sum((n - 1) * step for n, step in axes)
        if 0 not in tensor.sizes and last >= tensor.storage.count:
            raise RefusedError(f"has tensor {shown(name)} reach beyond its storage")
        # A size of 0 counts as 1 here: NumPy refuses a shape of 0 × 2^62 × 2^62.
        total += math.prod(max(n, 1) for n in tensor.sizes) * _stored(tensor.storage).itemsize
    if total > _MAX_GROWTH * file_size:
        raise RefusedError(f"holds tensors of {shown(total)} bytes in a file of {file_size}")


def _stored(storage: Storage) -> np.dtype:
    """Returns the type in the file, where all numbers are little-endian."""
    return np.dtype(_STORED.get(storage.kind, storage.kind)).newbyteorder("<")


def _bytes(storage: Storage) -> int:
    return storage.count * _stored(storage).itemsize


def _numbers(file: BinaryIO, storage: Storage) -> bytes:
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.count:
        raise RefusedError(f"has {count} numbers in a storage that should have {storage.count}")
    raw = file.read(_bytes(storage))
    if len(raw) != _bytes(storage):
        raise RefusedError("became shorter while it was read")
    return raw


def _array(tensor: Tensor, raw: bytes) -> np.ndarray:
    stored = _stored(tensor.storage)
    if 0 in tensor.sizes:
        values = np.zeros(tensor.sizes, stored)
    else:
        # The stride of an axis of size one is never used, and may be any number.
        axes = zip(tensor.sizes, tensor.strides, strict=True)
        steps = [step * stored.itemsize if n > 1 else 0 for n, step in axes]
        start = tensor.offset * stored.itemsize
        values = np.ndarray(tensor.sizes, stored, raw, start, steps).copy(order="C")
    match tensor.storage.kind:
        case "bool":  # a bool of any other byte than 0 and 1 would confuse NumPy
            return np.asarray(values != 0)
        case "bfloat16":  # the upper half of a float32
            return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(stored.newbyteorder("="), copy=False)
