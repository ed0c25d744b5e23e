"""Exports to ONNX; labels, decision rule and resizing are in the model's properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.export import snippets
from engine.export.export_source import (
    ExportFormat,
    ExportSource,
    PredictFunction,
    model_info,
)
from engine.runtime.free_memory import frequent_collections

OPSET = 18  # of 2022; onnxruntime 1.14 and later read it


def write(source: ExportSource, path: Path) -> None:
    """Converts and writes the model.

    Raises:
      onnx.checker.ValidationError: the converted model is invalid.
    """
    import onnx
    import tf2onnx

    from engine.export import inference_function

    predict = inference_function.build(source)
    with frequent_collections():
        model, _ = tf2onnx.convert.from_function(
            predict,
            input_signature=predict.input_signature,
            opset=OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # Text unchanged, everything else as JSON.
    info = {k: v if isinstance(v, str) else json.dumps(v) for k, v in model_info(source).items()}
    onnx.helper.set_model_props(model, info)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _erfc(graph: Any, node: Any, name: str, _: list) -> None:
    """Converts TensorFlow's Erfc, which tf2onnx lacks and GELU needs, to 1 - erf."""
    shapes, types = node.output_shapes, node.output_dtypes
    outputs, inputs = node.output, node.input
    graph.remove_node(name)
    erf = graph.make_node("Erf", inputs, shapes=shapes, dtypes=types).output[0]
    one = graph.make_const(f"{name}/one", np.array(1, np.float32)).output[0]
    graph.make_node("Sub", [one, erf], name=name, outputs=outputs, shapes=shapes, dtypes=types)


def load(source: ExportSource, path: Path) -> PredictFunction:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = source.threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities, decisions = session.run(["probabilities", "decision"], {"images": images})
        return probabilities, decisions

    return predict


def usage(source: ExportSource) -> str:
    program = snippets.pixel_program(
        source,
        "onnxruntime",
        """\
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
probabilities, decisions = session.run(["probabilities", "decision"], {"images": images})""",
        standard=(),
    )
    return f"""\
{snippets.signature(source)}
Opset {OPSET}. The model's properties hold `labels`, `rule` and `image_size` as JSON, and
`temperature`, `resize` and `backbone`.

Run in the folder of the file, with the packages numpy, onnxruntime and Pillow:

{program}"""


FORMAT = ExportFormat("ONNX", "model.onnx", write, load, usage)
