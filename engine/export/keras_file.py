"""A `.keras` file of Keras' own layers, which plain Keras loads, in safe mode too.

The temperature is a layer before the softmax. The rule is not a layer: the model card shows how it
is applied. Normalisations stay as they are, so that the model can be trained on.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from engine.evaluation import decision_rule
from engine.export import snippets
from engine.export.subject import PIXELS, Answer, ExportFormat, ExportSource, facts_json

FACTS = "model.json"


def write(subject: ExportSource, path: Path) -> None:
    import keras

    model = subject.opened.model
    tempered = keras.layers.Rescaling(1 / subject.rule.temperature, name="temperature")
    chances = keras.layers.Softmax(name="probabilities")(tempered(model.output))
    keras.Model(model.input, chances, name=model.name).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(FACTS), facts_json(subject).encode())


def load(subject: ExportSource, path: Path) -> Answer:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    forward = tf.function(lambda images: model(images, training=False), autograph=False)

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chances = forward(tf.cast(images, tf.float32)).numpy()
        return chances, decision_rule.decide(subject.rule, subject.classes, chances)

    return answer


def usage(subject: ExportSource) -> str:
    program = snippets.of_pixels(
        subject,
        imports=("zipfile", "keras"),
        lines="""\
with zipfile.ZipFile("model.keras") as files:
    facts = json.loads(files.read("model.json"))
labels, rule = facts["labels"], facts["rule"]


def decide(row):
    found = int(row.argmax())
    if rule["positive_class"] is not None:
        positive = labels.index(rule["positive_class"])
        others = [-1 if n == positive else chance for n, chance in enumerate(row)]
        found = positive if row[positive] >= np.float32(rule["threshold"]) else np.argmax(others)
    uncertain = rule["abstain"] is not None and row.max() < np.float32(rule["abstain"])
    return -1 if uncertain else int(found)


model = keras.saving.load_model("model.keras")
probabilities = model.predict(images, verbose=0)
decisions = [decide(row) for row in probabilities]""",
    )
    return f"""\
{snippets.gives(subject, decision=False)}
The program applies the rule. `model.json` in the file holds the labels, the
temperature, the rule and how images are resized.

Run beside the file, with the packages tensorflow, which Keras comes with, and Pillow:

{program}"""


FORMAT = ExportFormat("Keras", "model.keras", PIXELS, write, load, usage)
