"""Interprets the pickles of a PyTorch state dict without executing anything.

Python's own unpickler calls whatever a file names. This one knows the few operations of a state
dict, and none that imports or calls anything: a class is a name, a tensor a record of where its
numbers are stored. What it builds is never larger than what it reads.
"""

from __future__ import annotations

import dataclasses
import pickletools
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

# A network of a thousand layers needs a tenth of these. The limits also keep every operation cheap:
# time then grows with the length of the pickle, and not with its square.
_MAX_OPERATIONS = 1_000_000
_MAX_TEXT = 4096
_MAX_DIMENSIONS = 32

_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
# The names that a file may use for its numbers, and what they are.
_STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}


class RefusedError(Exception):
    """The file is refused; the message completes a sentence that starts with its path."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` numbers of the type `kind` (`float32`, …), later in the file."""

    key: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A window on a storage; offset, sizes and strides are counted in elements.

    All are 0 or more. Nothing else is checked: they may point beyond the storage.
    """

    storage: Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def interpret(stream: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Returns the value of the pickle that starts here, and the storages it refers to, by key.

    The stream is then positioned after the pickle. Values are None, bool, int, str, tuple, list,
    dict with str keys, `Storage` and `Tensor`. The stream has to be in memory: a file object would
    allocate memory for whatever length the pickle claims.

    Raises:
      RefusedError: the pickle is broken, or asks for anything that a state dict does not need.
    """
    machine = _Machine()
    with warnings.catch_warnings():
        # pickletools warns of invalid escapes in names; such a name is refused anyway.
        warnings.simplefilter("ignore", DeprecationWarning)
        return machine.run(stream), machine.storages


def kind(value: Any) -> str:
    """Describes the type of a value for a message: `a value of type int`."""
    return f"a value of type {type(value).__name__.lstrip('_')}"


def shown(value: Any) -> str:
    """Formats a value of the file in one short line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "more than 2^64"
    if not isinstance(value, (str, int)):
        return kind(value)
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclasses.dataclass(frozen=True)
class _Name:
    """A class or function that the file names. Nothing is imported."""

    text: str


class _Machine:
    """Interprets one pickle of protocol 2 into plain values, `_Name`s and `Tensor`s."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Returns the value of the pickle that starts here."""
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
                if operation.name == "STOP":
                    return self.pop()
                if count >= _MAX_OPERATIONS:
                    raise RefusedError(f"has a pickle of more than {_MAX_OPERATIONS} operations")
                if operation.name not in _ACTIONS:
                    raise RefusedError(f"asks for the pickle operation {operation.name}: refused")
                _ACTIONS[operation.name](self, argument)
        except ValueError:  # what pickletools raises for an unknown or a cut-off operation
            pass
        raise RefusedError("is cut off, or no weight file at all: its pickle is broken")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, text: str) -> None:
        if len(text) > _MAX_TEXT:
            raise RefusedError(f"has a name of {len(text)} letters")
        self.push(text)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise RefusedError("has a broken pickle: a value is missing")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise RefusedError("has a broken pickle: a mark is missing")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def protocol(self, number: int) -> None:
        if number != 2:
            raise RefusedError(f"has a pickle of protocol {number}, PyTorch's default is 2")

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise RefusedError("has a broken pickle: it recalls a value that was not stored")
        self.push(self.memo[index])

    def store(self, index: int) -> None:
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def tuple_of(self, length: int) -> None:
        self.push(tuple([self.pop() for _ in range(length)][::-1]))

    def extend(self, values: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise RefusedError(f"appends to {kind(target)}")
        target.extend(values)
        self.push(target)

    def update(self, values: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise RefusedError(f"sets items of {kind(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise RefusedError(f"has a dictionary with {kind(key)} as a key")
            target[key] = value
        self.push(target)

    def name(self, text: str) -> None:
        if text not in (_DICT, _TENSOR) and text not in _STORAGES:
            raise RefusedError(f"asks for {shown(text)}: refused")
        self.push(_Name(text))

    def storage(self, _: None) -> None:
        storage = _storage(self.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise RefusedError(f"declares storage {shown(storage.key)} in two ways")
        self.push(storage)

    def reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if function == _Name(_DICT) and arguments == ():
            self.push({})
        elif function == _Name(_TENSOR):
            self.push(_tensor(arguments))
        else:
            raise RefusedError(f"calls {kind(function)} in a way that is refused")

    def attributes(self, _: None) -> None:
        # A state dict has one, `_metadata`: versions of layers, not needed here.
        state, target = self.pop(), self.pop()
        known = isinstance(state, dict) and len(state) == 1 and "_metadata" in state
        if not isinstance(target, dict) or not known:
            raise RefusedError("sets attributes that no state dict has")
        self.push(target)


def _storage(form: Any) -> Storage:
    """From a persistent id: ('storage', type, key, device, number of elements, None)."""
    match form:
        case ("storage", _Name(text), str(key), str(), int(count), None) if text in _STORAGES:
            if count >= 0 and not isinstance(count, bool):
                return Storage(key, _STORAGES[text], count)
    raise RefusedError("refers to a storage in an unknown form")


def _tensor(arguments: Any) -> Tensor:
    """From the arguments of _rebuild_tensor_v2; the last two matter to training only."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(sizes), tuple(strides), bool(), dict()):
            fits = len(sizes) == len(strides) <= _MAX_DIMENSIONS
            if fits and all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
                return Tensor(storage, offset, sizes, strides)
    raise RefusedError("describes a tensor in an unknown form")


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "BININT": _Machine.push,
    "BININT1": _Machine.push,
    "BININT2": _Machine.push,
    "LONG1": _Machine.push,
    "BINUNICODE": _Machine.text,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.update([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_to_mark()),
    "BINPUT": _Machine.store,
    "LONG_BINPUT": _Machine.store,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "BINPERSID": _Machine.storage,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.attributes,
}
