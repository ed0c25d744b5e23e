"""Exports to LiteRT (TensorFlow Lite): one file for phones and small boards, in three precisions.

By TensorFlow Lite's metadata convention the associated files are an uncompressed zip archive
behind the flat buffer, which the interpreter ignores. Libraries that read the metadata accept
classifiers with a single output, so `decision` is omitted where it is the most likely label.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.text import printable, program
from engine.export import lite_metadata, snippets
from engine.export.export_source import (
    FLOAT16,
    INT8,
    PRECISIONS,
    ExportFormat,
    ExportSource,
    PredictFunction,
    model_info_json,
)
from engine.export.lite_metadata import INFO_FILE, LABELS_FILE

SIGNATURE = "serving_default"
# The operations behind the logits, by TensorFlow Lite's names. They stay float32 in every export:
# an int8 softmax has only 256 levels, so that the most likely classes would tie.
LAST_OPERATIONS = ("SOFTMAX", "TOPK_V2", "STRIDED_SLICE", "GREATER_EQUAL", "LESS")


def write(source: ExportSource, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _save_constant(source, folder)
        contents = _convert(source, folder)
    metadata = lite_metadata.build_metadata(source, _output_names(source))
    path.write_bytes(lite_metadata.add_metadata(contents, metadata))
    # One label per line, line breaks escaped; `model.json` has the labels unchanged.
    labels = "".join(f"{printable(name)}\n" for name in source.classes)
    with zipfile.ZipFile(path, "a") as archive:  # without dates, for reproducible files
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), labels.encode())
        archive.writestr(zipfile.ZipInfo(INFO_FILE), model_info_json(source).encode())


def _output_names(source: ExportSource) -> list[str]:
    """Returns the names of the outputs in the converter's order, alphabetical."""
    return ["decision", "probabilities"] if source.rule.overrides_argmax else ["probabilities"]


def _save_constant(source: ExportSource, folder: str) -> None:
    """Saves the model without variables, which int8 calibration does not support."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    from engine.export import inference_function

    predict = inference_function.build(source)
    concrete = predict.get_concrete_function()
    frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)

    @tf.function(autograph=False, input_signature=predict.input_signature)
    def constant(images: Any) -> dict[str, Any]:
        # The frozen function returns its outputs in the order of their names.
        outputs = dict(zip(("decision", "probabilities"), frozen(images), strict=True))
        return {name: outputs[name] for name in _output_names(source)}

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # swish has one
    tf.saved_model.save(tf.Module(), folder, {SIGNATURE: constant}, options)


def _convert(source: ExportSource, folder: str) -> bytes:
    """Converts a SavedModel to the source's precision."""
    import tensorflow as tf

    def representative_dataset() -> Iterator[dict[str, np.ndarray]]:
        assert source.calibration_images is not None
        for image in source.calibration_images:
            yield {"images": image[None]}

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if source.precision in (FLOAT16, INT8):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if source.precision == FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if source.precision != INT8:
        return converter.convert()
    converter.representative_dataset = representative_dataset
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    # TensorFlow's only way to exclude operations from quantization is the debugger.
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(LAST_OPERATIONS))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=representative_dataset, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()


def load(source: ExportSource, path: Path) -> PredictFunction:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=source.threads)
    run = interpreter.get_signature_runner(SIGNATURE)

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = run(images=images)
        probabilities = outputs["probabilities"]
        return probabilities, outputs.get("decision", probabilities.argmax(-1))

    return predict


def usage(source: ExportSource) -> str:
    program = snippets.pixel_program(
        source,
        "ai_edge_litert.interpreter",
        """\
with zipfile.ZipFile("model.tflite") as files:
    labels = json.loads(files.read("model.json"))["labels"]
model = ai_edge_litert.interpreter.Interpreter("model.tflite").get_signature_runner()
outputs = model(images=images)
probabilities = outputs["probabilities"]
decisions = outputs.get("decision", probabilities.argmax(-1))""",
    )
    calibration = ""
    if source.calibration_images is not None:
        calibration = f"""
Weights and arithmetic are int8 up to the logits, calibrated on {len(source.calibration_images)}
training images.
"""
    return f"""\
{snippets.signature(source, source.rule.overrides_argmax)}
It has one signature, `{SIGNATURE}`. `labels.txt` in the file holds one label per line, with `\\n`
for a line break within a name; `model.json` holds the labels unchanged, the temperature, the
decision rule and the resize method. {_app_support(source)}
{calibration}
Run in the folder of the file, with the packages ai-edge-litert, numpy and Pillow:

{program}"""


def _app_support(source: ExportSource) -> str:
    if source.rule.overrides_argmax:
        return (
            "The file has TensorFlow Lite's metadata, but libraries that show the most likely\n"
            "label, such as MediaPipe's ImageClassifier, refuse its second output, `decision`. "
            f"For these,\nexport the run after `{program('evaluate')} --plain`."
        )
    return (
        "MediaPipe's ImageClassifier reads the metadata and takes the file unchanged;\n"
        "it squashes images to the input size with its own filter."
    )


FORMAT = ExportFormat("LiteRT", "model.tflite", write, load, usage, PRECISIONS)
