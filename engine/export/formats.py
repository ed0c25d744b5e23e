"""The export formats by name."""

from __future__ import annotations

from engine.export import keras_file, litert, onnx_file, saved_model
from engine.export.export_source import ExportFormat

FORMATS: dict[str, ExportFormat] = {
    "saved_model": saved_model.FORMAT,
    "litert": litert.FORMAT,
    "onnx": onnx_file.FORMAT,
    "keras": keras_file.FORMAT,
}
