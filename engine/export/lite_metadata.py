"""Writes TensorFlow Lite's metadata, which describes the tensors of a `.tflite` file.

It is a flat buffer within the model's, of this schema:
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs
MediaPipe and TensorFlow Lite's task library read it. The packages that write it take several
hundred megabytes or are no longer maintained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from engine.export.export_source import ExportSource

BUFFER, IDENTIFIER = "TFLITE_METADATA", b"M001"
MIN_PARSER_VERSION = "1.0.0"  # supports every field used here
LABELS_FILE, INFO_FILE = "labels.txt", "model.json"  # packed with the model

# A table by the numbers that its fields have in the schema; a union has two: its type and its
# table.
Table = Mapping[int, Any]


class Byte(int):
    """A member of one of the schema's enumerations."""


FEATURE_PROPERTIES, IMAGE_PROPERTIES = Byte(1), Byte(2)  # ContentProperties
NORMALIZATION_OPTIONS = Byte(1)  # ProcessUnitOptions
RGB = Byte(1)  # ColorSpaceType
AXIS_LABELS = Byte(2)  # AssociatedFileType


def build_metadata(source: ExportSource, outputs: Sequence[str]) -> bytes:
    """Builds the metadata of a model with the input `images` and these outputs, in order."""
    subgraph = {
        2: [_input_tensor(source)],  # input_tensor_metadata
        3: [_output_tensor(name) for name in outputs],  # output_tensor_metadata
    }
    description = "labels, temperature, decision rule and resizing, as JSON"
    model = {
        0: source.loaded_run.recipe.backbone,  # name
        1: f"image classifier with {len(source.classes)} labels",  # description
        3: [subgraph],  # subgraph_metadata
        6: [{0: INFO_FILE, 1: description}],  # associated_files: name, description
        7: MIN_PARSER_VERSION,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, model), IDENTIFIER)
    return bytes(builder.Output())


def _input_tensor(source: ExportSource) -> Table:
    height, width, _ = source.input_shape
    image = {0: RGB, 1: {0: width, 1: height}}  # color_space, default_size
    return {
        0: "images",  # name
        1: f"uint8 pixels, 0 to 255, resized by {source.loaded_run.recipe.resize}",  # description
        3: {0: IMAGE_PROPERTIES, 1: image},  # content
        4: [{0: NORMALIZATION_OPTIONS, 1: {0: [0.0], 1: [1.0]}}],  # process_units: mean, std
    }


def _output_tensor(name: str) -> Table:
    content = {0: FEATURE_PROPERTIES, 1: {}}
    if name == "decision":
        return {0: name, 1: "class index, -1 for uncertain", 3: content}
    labels = {0: LABELS_FILE, 2: AXIS_LABELS}  # name, type
    return {0: name, 1: "of each label", 3: content, 6: [labels]}  # 6: associated_files


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
    fields = {number: _field(builder, value) for number, value in table.items()}
    builder.StartObject(max(fields, default=-1) + 1)
    for number, (write, value) in fields.items():
        write(number, value, 0)
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
        case Mapping():
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
