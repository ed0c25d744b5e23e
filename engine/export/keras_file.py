"""Exports to a `.keras` file of Keras' own layers, which plain Keras loads in safe mode.

The temperature is a layer before the softmax. The decision rule is not a layer: the model card
shows how to apply it. Normalization layers stay unfolded, so that training can continue.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from engine.evaluation import decision_rule
from engine.export import snippets
from engine.export.export_source import (
    ExportFormat,
    ExportSource,
    PredictFunction,
    model_info_json,
)

INFO_FILE = "model.json"


def write(source: ExportSource, path: Path) -> None:
    import keras

    model = source.loaded_run.model
    tempered = keras.layers.Rescaling(1 / source.rule.temperature, name="temperature")
    probabilities = keras.layers.Softmax(name="probabilities")(tempered(model.output))
    keras.Model(model.input, probabilities, name=model.name).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(INFO_FILE), model_info_json(source).encode())


def load(source: ExportSource, path: Path) -> PredictFunction:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    forward = tf.function(lambda images: model(images, training=False), autograph=False)

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probabilities = forward(tf.cast(images, tf.float32)).numpy()
        return probabilities, decision_rule.decide(source.rule, source.classes, probabilities)

    return predict


def usage(source: ExportSource) -> str:
    program = snippets.pixel_program(
        source,
        "keras",
        """\
with zipfile.ZipFile("model.keras") as files:
    info = json.loads(files.read("model.json"))
labels, rule = info["labels"], info["rule"]


def decide(row):
    best = int(row.argmax())
    if rule["positive_class"] is not None:
        positive = labels.index(rule["positive_class"])
        others = [-1 if n == positive else value for n, value in enumerate(row)]
        best = positive if row[positive] >= np.float32(rule["threshold"]) else np.argmax(others)
    uncertain = rule["abstain"] is not None and row.max() < np.float32(rule["abstain"])
    return -1 if uncertain else int(best)


model = keras.saving.load_model("model.keras")
probabilities = model.predict(images, verbose=0)
decisions = [decide(row) for row in probabilities]""",
    )
    return f"""\
{snippets.signature(source, decision=False)}
The program below applies the decision rule. `model.json` in the file holds the labels, the
temperature, the rule and the resize method.

Run in the folder of the file, with the packages tensorflow (which includes Keras) and Pillow:

{program}"""


FORMAT = ExportFormat("Keras", "model.keras", write, load, usage)
