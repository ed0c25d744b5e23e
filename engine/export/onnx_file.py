"""ONNX, as onnxruntime and many others read it; what belongs to the model is in its properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from engine.export import snippets
from engine.export.subject import PIXELS, Answer, ExportFormat, ExportSource, facts

OPSET = 18  # of 2022: onnxruntime reads it from 1.14 on
BATCH = "batch"


def write(subject: ExportSource, path: Path) -> None:
    """Raises:
    onnx.checker.ValidationError: what came out is no sound model.
    """
    import onnx
    import tf2onnx

    from engine.export import program

    answer = program.make(subject)
    made, _ = tf2onnx.convert.from_function(
        answer,
        input_signature=answer.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.helper.set_model_props(made, properties(subject))
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString())


def _erfc(graph: Any, node: Any, name: str, _: list) -> None:
    """1 - erf, for tf2onnx, which does not know TensorFlow's Erfc; GELU is made of it."""
    shapes, types = node.output_shapes, node.output_dtypes
    outputs, inputs = node.output, node.input
    graph.remove_node(name)
    erf = graph.make_node("Erf", inputs, shapes=shapes, dtypes=types).output[0]
    one = graph.make_const(f"{name}/one", np.array(1, np.float32)).output[0]
    graph.make_node("Sub", [one, erf], name=name, outputs=outputs, shapes=shapes, dtypes=types)


def properties(subject: ExportSource) -> dict[str, str]:
    """Text as it is, all else as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts(subject).items()
    }


def load(subject: ExportSource, path: Path) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chances, decisions = session.run(["probabilities", "decision"], {"images": images})
        return chances, decisions

    return answer


def usage(subject: ExportSource) -> str:
    program = snippets.of_pixels(
        subject,
        imports=("onnxruntime",),
        lines="""\
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
probabilities, decisions = session.run(["probabilities", "decision"], {"images": images})""",
    )
    return f"""\
{snippets.gives(subject)}
Opset {OPSET}. The model's properties hold `labels`, `rule` and `image_size` as JSON, and
`temperature`, `resize` and `backbone`.

Run beside the file, with the packages numpy, onnxruntime and Pillow:

{program}"""


FORMAT = ExportFormat("ONNX", "model.onnx", PIXELS, write, load, usage)
