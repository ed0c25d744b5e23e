"""Reads PyTorch's older weight files, which are not zip archives, without executing anything.

Such a file is five pickles in a row (a magic number, a protocol number, properties of the system
that wrote it, the state dict, the keys of its storages), then for each key the number of elements,
int64, and the elements themselves. The layout is that of `torch.serialization._legacy_save`.

Every length is compared with the size of the file before memory is allocated.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from engine.core.errors import UserError
from engine.core.text import shorten

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_HELP = (
    "allowed: a whole state dict, saved by "
    "torch.save(model.state_dict(), FILE, _use_new_zipfile_serialization=False)"
)

# The pickles of a network of a thousand layers take half of these 2 MiB, which are interpreted
# in seconds.
_MAX_HEAD_BYTES = 1 << 21
# Tensors may share a storage. Their sum is limited to this multiple of the file's size, or a small
# file could demand any amount of memory.
_MAX_GROWTH = 2
_MAX_DIMENSIONS = 32

# The operations that PyTorch writes. None of them imports anything.
_OPERATIONS = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BINPERSID),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.BINUNICODE),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.LONG1),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.BUILD),
)


class _RefusedError(Exception):
    """The file is refused; the message completes a sentence that starts with its path."""


class _NumberType(NamedTuple):
    """How numbers are stored, and the type of the array that they become."""

    stored: str
    read: str


class _Storage(NamedTuple):
    """A run of `size` numbers, later in the file."""

    key: str
    type: _NumberType
    size: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.type.stored)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A window on a storage; offset, sizes and strides are counted in elements, 0 or more."""

    storage: _Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def _empty_dict() -> dict:
    """Replaces `OrderedDict`, which is called without arguments."""
    return {}


def _tensor(*arguments: Any) -> _Tensor:
    """Replaces `_rebuild_tensor_v2`, whose last two arguments matter to training only."""
    match arguments:
        case (_Storage() as storage, int(offset), tuple(sizes), tuple(strides), bool(), dict()):
            fits = len(sizes) == len(strides) <= _MAX_DIMENSIONS
            if fits and all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
                return _Tensor(storage, offset, sizes, strides)
    raise _RefusedError("describes a tensor in an unknown form")


# What a file may name, and what it gets instead.
_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _empty_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.DoubleStorage": _NumberType("<f8", "float64"),
    "torch.FloatStorage": _NumberType("<f4", "float32"),
    "torch.HalfStorage": _NumberType("<f2", "float16"),
    "torch.BFloat16Storage": _NumberType("<u2", "bfloat16"),
    "torch.LongStorage": _NumberType("<i8", "int64"),
    "torch.IntStorage": _NumberType("<i4", "int32"),
    "torch.ShortStorage": _NumberType("<i2", "int16"),
    "torch.CharStorage": _NumberType("i1", "int8"),
    "torch.ByteStorage": _NumberType("u1", "uint8"),
    "torch.BoolStorage": _NumberType("u1", "bool"),
}


class _StateDictUnpickler(pickle._Unpickler):
    """Python's unpickler, reduced to the operations and the names of a state dict.

    It is the one that is written in Python. The one in C has no table of operations to reduce, and
    allocates memory for whatever memo index a file claims.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _NAMES:
            raise _RefusedError(f"names {_shown(full_name)}, which no state dict needs")
        return _NAMES[full_name]

    def persistent_load(self, pid: Any) -> _Storage:
        """From ('storage', type, key, device, number of elements, None)."""
        match pid:
            case ("storage", _NumberType() as numbers, str(key), str(), int(size), None):
                storage = _Storage(key, numbers, size)
                if size >= 0 and self.storages.setdefault(key, storage) == storage:
                    return storage
        raise _RefusedError("refers to a storage in an unknown form, or in two ways")

    def _update(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):  # to hash a tuple of tuples could take for ever
                raise _RefusedError(f"has a dictionary with {_kind(key)} as a key")
            self.stack[-1][key] = value

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def load_build(self) -> None:
        """A state dict has one attribute, `_metadata`: versions of layers, not needed here."""
        attributes = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or list(attributes) != ["_metadata"]:
            raise _RefusedError("sets attributes that no state dict has")


_StateDictUnpickler.dispatch = {
    code[0]: getattr(_StateDictUnpickler, pickle._Unpickler.dispatch[code[0]].__name__)
    for code in _OPERATIONS
}


def _unpickle(head: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """Returns the value of the pickle that starts here, and the storages it refers to, by key.

    `head` is then positioned after the pickle. It has to be in memory: a file object would allocate
    memory for whatever length the pickle claims.

    Raises:
      _RefusedError: the pickle is broken, or holds anything that a state dict does not need.
    """
    unpickler = _StateDictUnpickler(head)
    try:
        return unpickler.load(), unpickler.storages
    except _RefusedError:
        raise
    except Exception:  # whatever Python's unpickler meets
        message = "is cut off, or no weight file at all: its pickle is not that of a state dict"
        raise _RefusedError(message) from None


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
            raise _RefusedError("is not a regular file")
        with Path(path).open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; check the path") from None
    except _RefusedError as fault:
        raise UserError(f"{path}: {fault}; {_HELP}") from None


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    head = io.BytesIO(file.read(min(size, _MAX_HEAD_BYTES)))
    if head.getvalue().startswith(b"PK\x03\x04"):
        raise _RefusedError("is a zip archive, PyTorch's newer format")
    _check_preamble(*(_unpickle(head)[0] for _ in range(3)))
    state, storages = _unpickle(head)
    _check_state(state, size)
    keys, _ = _unpickle(head)
    strings = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not strings or len(keys) != len(storages) or set(keys) != set(storages):
        raise _RefusedError("lists other storages than its tensors use")

    declared = sum(8 + storage.bytes for storage in storages.values())
    remaining = size - head.tell()
    if declared != remaining:
        raise _RefusedError(f"should end with {_shown(declared)} bytes of numbers, has {remaining}")
    file.seek(head.tell())
    raw = {key: _read_numbers(file, storages[key]) for key in keys}
    return {name: _array(tensor, raw[tensor.storage.key]) for name, tensor in state.items()}


def _check_preamble(magic: Any, protocol: Any, system: Any) -> None:
    if magic != _MAGIC:
        raise _RefusedError("does not start with PyTorch's magic number")
    if protocol != _PROTOCOL:
        raise _RefusedError(f"has protocol number {_shown(protocol)}, known is {_PROTOCOL}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _RefusedError("was not written on a little-endian machine")


def _check_state(state: Any, file_size: int) -> None:
    """Checks that tensors are inside their storages, and their sum in proportion to the file."""
    if not isinstance(state, dict):
        raise _RefusedError(f"holds {_kind(state)}, not a dictionary")
    total = 0
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise _RefusedError(f"has {_kind(tensor)} as {_shown(name)}, not a tensor")
        axes = zip(tensor.sizes, tensor.strides, strict=True)
        last = tensor.offset + sum((n - 1) * step for n, step in axes)
        if 0 not in tensor.sizes and last >= tensor.storage.size:
            raise _RefusedError(f"has tensor {_shown(name)} reach beyond its storage")
        # A size of 0 counts as 1 here: NumPy refuses a shape of 0 × 2^62 × 2^62.
        total += math.prod(max(n, 1) for n in tensor.sizes) * tensor.storage.dtype.itemsize
    if total > _MAX_GROWTH * file_size:
        raise _RefusedError(f"holds tensors of {_shown(total)} bytes in a file of {file_size}")


def _read_numbers(file: BinaryIO, storage: _Storage) -> bytes:
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.size:
        raise _RefusedError(f"has {count} numbers in a storage that should have {storage.size}")
    raw = file.read(storage.bytes)
    if len(raw) != storage.bytes:
        raise _RefusedError("became shorter while it was read")
    return raw


def _array(tensor: _Tensor, raw: bytes) -> np.ndarray:
    dtype = tensor.storage.dtype
    if 0 in tensor.sizes:
        values = np.zeros(tensor.sizes, dtype)
    else:
        # The stride of an axis of size one is never used, and may be any number.
        axes = zip(tensor.sizes, tensor.strides, strict=True)
        steps = [step * dtype.itemsize if n > 1 else 0 for n, step in axes]
        start = tensor.offset * dtype.itemsize
        values = np.ndarray(tensor.sizes, dtype, raw, start, steps).copy(order="C")
    if tensor.storage.type.read == "bfloat16":  # the upper half of a float32
        return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(tensor.storage.type.read, copy=False)


def _kind(value: Any) -> str:
    """Describes the type of a value for a message: `a value of type int`."""
    return f"a value of type {type(value).__name__.lstrip('_')}"


def _shown(value: Any) -> str:
    """Formats a value of the file in one short line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "more than 2^64"
    if not isinstance(value, (str, int)):
        return _kind(value)
    return shorten(ascii(value), 80)
