"""What a `.tflite` file says of its tensors: TensorFlow Lite's metadata, which apps are fed by.

It is a flat buffer within the model's, of this schema:
https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs
MediaPipe and TensorFlow Lite's task library read it. The packages that write it are a few hundred
megabytes, or are made no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from engine.export.subject import ExportSource

BUFFER, IDENTIFIER = "TFLITE_METADATA", b"M001"
OLDEST_PARSER = "1.0.0"  # that knows all that is said here

# The fields of each table, in the schema's order. A union is two: which, and the table itself.
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


OF_FEATURES, OF_AN_IMAGE = Byte(1), Byte(2)  # ContentProperties
NORMALIZES = Byte(1)  # ProcessUnitOptions
RGB = Byte(1)  # ColorSpaceType
AXIS_LABELS = Byte(2)  # AssociatedFileType

LABELS, FACTS = "labels.txt", "model.json"  # files that are packed with the model
DESCRIPTIONS = {
    "probabilities": "of each label",
    "decision": "index of the answer, or -1 where the model's rule leaves it open",
}


class Table(NamedTuple):
    order: Sequence[str]
    fields: dict[str, Any]


def describe(subject: ExportSource, outputs: Sequence[str]) -> bytes:
    """The metadata of a model whose input is `images` and whose outputs are these, in order."""
    facts = {"name": FACTS, "description": "labels, temperature, rule and resizing, as JSON"}
    subgraph = {
        "input_tensor_metadata": [_images(subject)],
        "output_tensor_metadata": [_output(name) for name in outputs],
    }
    model = {
        "name": subject.opened.recipe.backbone,
        "description": f"classifies images by {len(subject.classes)} labels",
        "subgraph_metadata": [Table(SUBGRAPH, subgraph)],
        "associated_files": [Table(ASSOCIATED_FILE, facts)],
        "min_parser_version": OLDEST_PARSER,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, Table(MODEL, model)), IDENTIFIER)
    return bytes(builder.Output())


def _images(subject: ExportSource) -> Table:
    height, width, _ = subject.pixels
    size = {"width": width, "height": height}
    image = {"color_space": RGB, "default_size": Table(IMAGE_SIZE, size)}
    content = {
        "content_properties_type": OF_AN_IMAGE,
        "content_properties": Table(IMAGE_PROPERTIES, image),
    }
    as_it_is = Table(NORMALIZATION, {"mean": [0.0], "std": [1.0]})
    unit = {"options_type": NORMALIZES, "options": as_it_is}
    tensor = {
        "name": "images",
        "description": f"uint8 pixels, 0 to 255, resized by {subject.opened.recipe.resize}",
        "content": Table(CONTENT, content),
        "process_units": [Table(PROCESS_UNIT, unit)],
    }
    return Table(TENSOR, tensor)


def _output(name: str) -> Table:
    content = {"content_properties_type": OF_FEATURES, "content_properties": Table((), {})}
    tensor: dict[str, Any] = {
        "name": name,
        "description": DESCRIPTIONS[name],
        "content": Table(CONTENT, content),
    }
    if name == "probabilities":
        tensor["associated_files"] = [Table(ASSOCIATED_FILE, {"name": LABELS, "type": AXIS_LABELS})]
    return Table(TENSOR, tensor)


def put(model: bytes, metadata: bytes) -> bytes:
    """A LiteRT model with this metadata, which has none yet."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    made = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = BUFFER, len(made.buffers)
    buffer.data = np.frombuffer(metadata, np.uint8)
    made.metadata = [*(made.metadata or ()), entry]
    made.buffers.append(buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(made))


def _table(builder: Any, table: Table) -> int:
    """Writes it, what it holds first: no table may be begun within another. Where it lies."""
    fields = [(name, _field(builder, value)) for name, value in table.fields.items()]
    builder.StartObject(len(table.order))
    for name, (write, value) in fields:
        write(table.order.index(name), value, 0)
    return builder.EndObject()


def _field(builder: Any, value: Any) -> tuple[Callable, int]:
    """How a value is put into a table, and what: itself, or where it lies."""
    match value:
        case Byte():
            return builder.PrependUint8Slot, value
        case int():
            return builder.PrependUint32Slot, value
        case str():
            place = builder.CreateString(value)
        case Table():
            place = _table(builder, value)
        case [float(), *_]:
            place = builder.CreateNumpyVector(np.array(value, np.float32))
        case _:
            places = [_table(builder, table) for table in value]
            builder.StartVector(4, len(places), 4)
            for offset in reversed(places):
                builder.PrependUOffsetTRelative(offset)
            place = builder.EndVector()
    return builder.PrependUOffsetTRelativeSlot, place
