"""Writes TensorFlow Lite's metadata, which describes the tensors of a `.tflite` file.

It is a flat buffer within the model's, of this schema:
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs
MediaPipe and TensorFlow Lite's task library read it. The packages that write it take several
hundred megabytes or are no longer maintained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from engine.export.export_source import ExportSource

BUFFER, IDENTIFIER = "TFLITE_METADATA", b"M001"
MIN_PARSER_VERSION = "1.0.0"  # supports every field used here

# The fields of each table, in the schema's order. A union has two: its type and its table.
MODEL = (
    *("name", "description", "version", "subgraph_metadata", "author", "license"),
    *("associated_files", "min_parser_version"),
)
SUBGRAPH = ("name", "description", "input_tensor_metadata", "output_tensor_metadata")
TENSOR = (
    *("name", "description", "dimension_names", "content", "process_units", "stats"),
    "associated_files",
)
CONTENT = ("content_properties_type", "content_properties")
IMAGE_PROPERTIES = ("color_space", "default_size")
IMAGE_SIZE = ("width", "height")
PROCESS_UNIT = ("options_type", "options")
NORMALIZATION = ("mean", "std")
ASSOCIATED_FILE = ("name", "description", "type")


class Byte(int):
    """A member of one of the schema's enumerations."""


FEATURE_PROPERTIES, IMAGE_PROPERTIES_TYPE = Byte(1), Byte(2)  # ContentProperties
NORMALIZATION_OPTIONS = Byte(1)  # ProcessUnitOptions
RGB = Byte(1)  # ColorSpaceType
AXIS_LABELS = Byte(2)  # AssociatedFileType

LABELS_FILE, INFO_FILE = "labels.txt", "model.json"  # packed with the model
DESCRIPTIONS = {
    "probabilities": "of each label",
    "decision": "class index, -1 for uncertain",
}


class Table(NamedTuple):
    order: Sequence[str]
    fields: dict[str, Any]


def build_metadata(source: ExportSource, outputs: Sequence[str]) -> bytes:
    """Builds the metadata of a model with the input `images` and these outputs, in order."""
    info = {
        "name": INFO_FILE,
        "description": "labels, temperature, decision rule and resizing, as JSON",
    }
    subgraph = {
        "input_tensor_metadata": [_input_tensor(source)],
        "output_tensor_metadata": [_output_tensor(name) for name in outputs],
    }
    model = {
        "name": source.loaded_run.recipe.backbone,
        "description": f"image classifier with {len(source.classes)} labels",
        "subgraph_metadata": [Table(SUBGRAPH, subgraph)],
        "associated_files": [Table(ASSOCIATED_FILE, info)],
        "min_parser_version": MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, Table(MODEL, model)), IDENTIFIER)
    return bytes(builder.Output())


def _input_tensor(source: ExportSource) -> Table:
    height, width, _ = source.input_shape
    size = {"width": width, "height": height}
    image = {"color_space": RGB, "default_size": Table(IMAGE_SIZE, size)}
    content = {
        "content_properties_type": IMAGE_PROPERTIES_TYPE,
        "content_properties": Table(IMAGE_PROPERTIES, image),
    }
    identity = Table(NORMALIZATION, {"mean": [0.0], "std": [1.0]})
    unit = {"options_type": NORMALIZATION_OPTIONS, "options": identity}
    tensor = {
        "name": "images",
        "description": f"uint8 pixels, 0 to 255, resized by {source.loaded_run.recipe.resize}",
        "content": Table(CONTENT, content),
        "process_units": [Table(PROCESS_UNIT, unit)],
    }
    return Table(TENSOR, tensor)


def _output_tensor(name: str) -> Table:
    content = {"content_properties_type": FEATURE_PROPERTIES, "content_properties": Table((), {})}
    tensor: dict[str, Any] = {
        "name": name,
        "description": DESCRIPTIONS[name],
        "content": Table(CONTENT, content),
    }
    if name == "probabilities":
        tensor["associated_files"] = [
            Table(ASSOCIATED_FILE, {"name": LABELS_FILE, "type": AXIS_LABELS})
        ]
    return Table(TENSOR, tensor)


def add_metadata(model: bytes, metadata: bytes) -> bytes:
    """Adds metadata to a LiteRT model that has none."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model_object = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = BUFFER, len(model_object.buffers)
    buffer.data = np.frombuffer(metadata, np.uint8)
    model_object.metadata = [*(model_object.metadata or ()), entry]
    model_object.buffers.append(buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model_object))


def _table(builder: Any, table: Table) -> int:
    """Writes a table after what it contains (flat buffers can't nest); returns its offset."""
    fields = [(name, _field(builder, value)) for name, value in table.fields.items()]
    builder.StartObject(len(table.order))
    for name, (write, value) in fields:
        write(table.order.index(name), value, 0)
    return builder.EndObject()


def _field(builder: Any, value: Any) -> tuple[Callable, int]:
    """Returns the builder's method for a value, and the value itself or its offset."""
    match value:
        case Byte():
            return builder.PrependUint8Slot, value
        case int():
            return builder.PrependUint32Slot, value
        case str():
            offset = builder.CreateString(value)
        case Table():
            offset = _table(builder, value)
        case [float(), *_]:
            offset = builder.CreateNumpyVector(np.array(value, np.float32))
        case _:
            offsets = [_table(builder, table) for table in value]
            builder.StartVector(4, len(offsets), 4)
            for element in reversed(offsets):
                builder.PrependUOffsetTRelative(element)
            offset = builder.EndVector()
    return builder.PrependUOffsetTRelativeSlot, offset
