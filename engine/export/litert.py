"""LiteRT (TensorFlow Lite): one file for phones and small boards, in three precisions.

Files that belong to the model lie in it as TensorFlow Lite's metadata convention has it: a zip
archive, uncompressed, behind the flat buffer, which the interpreter does not look at. The libraries
that read the metadata take a classifier with one output: there is no `decision` where it would be
the likeliest label anyway.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.text import printable
from engine.export import lite_metadata, snippets
from engine.export.lite_metadata import FACTS, LABELS
from engine.export.subject import (
    FLOAT16,
    FLOAT32,
    INT8,
    PIXELS,
    PRECISIONS,
    Answer,
    ExportFormat,
    ExportSource,
    facts_json,
)

SIGNATURE = "serving_default"


def write(subject: ExportSource, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        _save_constant(subject, place)
        contents = CONVERTERS[subject.precision](subject, place)
    path.write_bytes(
        lite_metadata.put(contents, lite_metadata.describe(subject, _outputs(subject)))
    )
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in ((LABELS, _lines(subject)), (FACTS, facts_json(subject))):
            archive.writestr(zipfile.ZipInfo(name), text.encode())  # of no date: the same bytes


def _outputs(subject: ExportSource) -> list[str]:
    """In the order that the converter gives them, that of the alphabet."""
    return ["decision", "probabilities"] if subject.rule.overrides_argmax else ["probabilities"]


def _save_constant(subject: ExportSource, place: str) -> None:
    """Saves the model without variables: where there are some, int8 can't be calibrated."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    from engine.export import program

    answer = program.make(subject)
    fixed = convert_to_constants.convert_variables_to_constants_v2(answer.get_concrete_function())

    @tf.function(autograph=False, input_signature=answer.input_signature)
    def constant(images: Any) -> dict[str, Any]:
        # What is fixed comes in the order of its names.
        found = dict(zip((program.DECISION, program.PROBABILITIES), fixed(images), strict=True))
        return {name: found[name] for name in _outputs(subject)}

    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # swish has one
    tf.saved_model.save(tf.Module(), place, {SIGNATURE: constant}, options)


def _as_float32(subject: ExportSource, place: str) -> bytes:
    return _converter(place).convert()


def _as_float16(subject: ExportSource, place: str) -> bytes:
    import tensorflow as tf

    converter = _converter(place)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _as_int8(subject: ExportSource, place: str) -> bytes:
    import tensorflow as tf

    from engine.export import program

    def samples() -> Iterator[dict[str, np.ndarray]]:
        assert subject.samples is not None
        for image in subject.samples:
            yield {program.IMAGES: image[None]}

    converter = _converter(place)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    kept = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=list(program.LAST_OPERATIONS)
    )
    # The debugger is how TensorFlow lets some operations stay in floating point.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=samples, debug_options=kept
    )
    return debugger.get_nondebug_quantized_model()


def _converter(place: str) -> Any:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_saved_model(place)


CONVERTERS: dict[str, Callable[[ExportSource, str], bytes]] = {
    FLOAT32: _as_float32,
    FLOAT16: _as_float16,
    INT8: _as_int8,
}


def _lines(subject: ExportSource) -> str:
    """One label a line, and no more lines than labels; `model.json` has them as they are."""
    return "".join(f"{printable(name)}\n" for name in subject.classes)


def load(subject: ExportSource, path: Path) -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=subject.threads)
    run = interpreter.get_signature_runner(SIGNATURE)

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = run(images=images)
        chances = found["probabilities"]
        return chances, found.get("decision", chances.argmax(-1))

    return answer


def usage(subject: ExportSource) -> str:
    program = snippets.of_pixels(
        subject,
        imports=("zipfile", "ai_edge_litert.interpreter"),
        lines="""\
with zipfile.ZipFile("model.tflite") as files:
    labels = json.loads(files.read("model.json"))["labels"]
model = ai_edge_litert.interpreter.Interpreter("model.tflite").get_signature_runner()
answers = model(images=images)
probabilities = answers["probabilities"]
decisions = answers.get("decision", probabilities.argmax(-1))""",
    )
    return f"""\
{snippets.gives(subject, subject.rule.overrides_argmax)}
It has one signature, `{SIGNATURE}`. `labels.txt` in it holds the labels one a line, with `\\n` for
a line break within a name; `model.json` holds them as they are, with temperature, rule and
resizing. {_in_apps(subject)}
{_calibration(subject)}
Run beside the file, with the packages ai-edge-litert, numpy and Pillow:

{program}"""


def _calibration(subject: ExportSource) -> str:
    if subject.samples is None:
        return ""
    count = len(subject.samples)
    return f"""
Weights and arithmetic are int8 up to the logits, calibrated on {count} training images.
"""


def _in_apps(subject: ExportSource) -> str:
    if subject.rule.overrides_argmax:
        return (
            "It has TensorFlow Lite's metadata, but libraries that show the likeliest label, such "
            "as MediaPipe's\nImageClassifier, refuse it for `decision`: they know no such rule. "
            "Where the likeliest label will do,\nexport the run after `bin/evaluate --plain`."
        )
    return (
        "By the metadata in it MediaPipe's ImageClassifier takes the file as it is;\n"
        "that squashes images to the size, with a filter of its own."
    )


FORMAT = ExportFormat("LiteRT", "model.tflite", PIXELS, write, load, usage, PRECISIONS)
