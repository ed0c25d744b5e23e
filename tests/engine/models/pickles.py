"""PyTorch's older weight files, written by hand: good ones and such as would run a command."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def plain(value: Any) -> bytes:
    """A whole pickle of plain values, by Python's own pickler."""
    return pickle.dumps(value, protocol=2)


def part(value: Any) -> bytes:
    """Operations that push a plain value, to be built into a larger pickle."""
    return plain(value)[2:-1]


def storage(kind="FloatStorage", key="7", count=6, view=None) -> bytes:
    head = b"(" + part("storage") + f"ctorch\n{kind}\n".encode()
    return head + part(key) + part("cpu") + part(count) + part(view) + b"tQ"


def tensor(store=None, offset=0, sizes=(2, 3), strides=(3, 1)) -> bytes:
    arguments = part(offset) + part(sizes) + part(strides) + part(False)
    return REBUILD + b"(" + (store or storage()) + arguments + DICT + b")RtR"


def state(**tensors: bytes) -> bytes:
    items = b"".join(part(name) + value for name, value in tensors.items())
    return b"\x80\x02" + DICT + b")R(" + items + b"u."


def raw(values: np.ndarray) -> bytes:
    return struct.pack("<q", values.size) + values.tobytes()


SIX = np.arange(6, dtype="<f4")


def whole(body: bytes, keys=("7",), numbers: bytes = raw(SIX), magic=MAGIC, protocol=1001) -> bytes:
    head = plain(magic) + plain(protocol) + plain(SYSTEM)
    return head + body + plain(list(keys)) + numbers


MARKER = "unfreeze_was_here"


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def hostile() -> dict[str, bytes]:
    command = f"mkdir {MARKER}"
    code = f"__import__('os').mkdir({MARKER!r})"
    text = part(command)
    return {
        "reduce, protocol 2": plain(Call(os.system, command)),
        "reduce, protocol 0": pickle.dumps(Call(os.system, command), protocol=0),
        "stack_global": pickle.dumps(Call(builtins.eval, code), protocol=4),
        "nested": plain({"a": [(Call(os.mkdir, MARKER),)]}),
        "in a state dict": state(a=part(Call(os.mkdir, MARKER))),
        "inst": b"\x80\x02(" + text + b"ios\nsystem\n.",
        "obj": b"\x80\x02(cos\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n(" + text + b"t\x81.",
        "obj of an allowed name": b"\x80\x02(ctorch\nFloatStorage\n" + text + b"o.",
        "newobj of an allowed name": b"\x80\x02" + DICT + b")\x81.",
        "stack_global, protocol 2": b"\x80\x02" + part("os") + part("mkdir") + b"\x93.",
        "ext": b"\x80\x02\x82\x01(" + text + b"tR.",
        "allowed name, other call": b"\x80\x02" + DICT + b"(" + part([("a", 1)]) + b"tR.",
        "storage called": b"\x80\x02ctorch\nFloatStorage\n(" + part(10**9) + b"tR.",
        "build on a tensor": b"\x80\x02" + tensor() + part({"_metadata": {}}) + b"b.",
        "build with other names": state()[:-1] + part({"keys": 1}) + b"b.",
        "attribute of an allowed module": state(a=b"ctorch._utils\n_import_dotted_name\n"),
        "getattr": b"\x80\x02c__builtin__\ngetattr\n(" + DICT + part("pop") + b"tR.",
        "numpy": state(a=part(np.zeros(3))),
        "text persistent id": b"\x80\x02Pstorage\n.",
        "tensor for a number": state(a=tensor().replace(part(False), DICT, 1)),
    }
