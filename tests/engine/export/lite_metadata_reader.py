"""Reads the metadata of a `.tflite` file by the field offsets of its schema.

The offsets are those of MediaPipe's reader, generated from metadata_schema.fbs.
"""

from __future__ import annotations

import struct
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types as numbers

FLOAT, BYTE, UINT, TEXT = "f", "B", "I", "text"
FILE = {4: ("name", TEXT), 6: ("description", TEXT), 8: ("type", BYTE)}
IMAGE = {4: ("color_space", BYTE), 6: ("size", {4: ("width", UINT), 6: ("height", UINT)})}
# A table of each kind of the union has what the other lacks.
CONTENT = {4: ("type", BYTE), 6: ("properties", IMAGE)}
UNIT = {4: ("type", BYTE), 6: ("options", {4: ("mean", [FLOAT]), 6: ("std", [FLOAT])})}
TENSOR = {
    4: ("name", TEXT), 6: ("description", TEXT), 10: ("content", CONTENT), 12: ("units", [UNIT]),
    16: ("files", [FILE]),
}  # fmt: skip
GRAPH = {8: ("inputs", [TENSOR]), 10: ("outputs", [TENSOR])}
MODEL = {
    4: ("name", TEXT), 6: ("description", TEXT), 10: ("graphs", [GRAPH]), 16: ("files", [FILE]),
    18: ("min_version", TEXT),
}  # fmt: skip


def read_metadata(contents: bytes) -> dict[str, Any]:
    """Returns the contents of the buffer that the model names TFLITE_METADATA."""
    model = schema.Model.GetRootAsModel(contents, 0)
    entries = [model.Metadata(number) for number in range(model.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    buffer = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert buffer[4:8] == b"M001"
    start = struct.unpack_from("<I", buffer)[0]
    return _table(flatbuffers.table.Table(buffer, start), MODEL)


def _table(table: Any, fields: dict) -> dict[str, Any]:
    values = {}
    for offset, (name, kind) in fields.items():
        if position := table.Offset(offset):
            values[name] = _value(table, position + table.Pos, kind)
    return values


def _value(table: Any, position: int, kind: Any) -> Any:
    if kind == TEXT:
        return table.String(position).decode()
    if isinstance(kind, str):
        return struct.unpack_from(f"<{kind}", table.Bytes, position)[0]
    if isinstance(kind, dict):
        return _table(flatbuffers.table.Table(table.Bytes, table.Indirect(position)), kind)
    position += table.Get(numbers.UOffsetTFlags, position)
    (count,) = struct.unpack_from("<I", table.Bytes, position)
    positions = range(position + 4, position + 4 + 4 * count, 4)
    return [_value(table, element, kind[0]) for element in positions]
