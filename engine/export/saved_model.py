"""TensorFlow's SavedModel, as TensorFlow Serving takes it: encoded bytes in, labels out.

Every output begins with the batch, `classes` too: TensorFlow Serving divides whatever it computed
for several requests at once along that dimension, and its REST interface wants it so. `classes` is
what its classify interface gives beside the scores: the label of each probability. The input ends
in `_bytes`, by which REST knows to take {"b64": …}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.export.subject import BYTES, UNCERTAIN, Answer, ExportFormat, ExportSource, encoded
from engine.runtime.hardware import describe_software

IMAGE_BYTES = "image_bytes"
FROM_BYTES, FROM_PIXELS = "serving_default", "pixels"


def write(subject: ExportSource, path: Path) -> None:
    """Two signatures over the same weights: `serving_default` and `pixels`."""
    import tensorflow as tf

    from engine.export import program

    answer = program.make(subject)
    names = [encoded(name) for name in subject.classes]

    def described(images: Any) -> dict[str, Any]:
        answers = answer(images)
        chances, decision = answers[program.PROBABILITIES], answers[program.DECISION]
        places = tf.where(decision < 0, len(names), decision)
        labels = tf.gather(tf.constant([*names, UNCERTAIN.encode()]), places)
        classes = tf.broadcast_to(tf.constant(names), tf.shape(chances))
        return {**answers, "labels": labels, "classes": classes}

    @tf.function(autograph=False, input_signature=answer.input_signature)
    def from_pixels(images: Any) -> dict[str, Any]:
        return described(images)

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)]
    )
    def from_bytes(image_bytes: Any) -> dict[str, Any]:
        pixels = tf.TensorSpec(subject.pixels, tf.uint8)
        return described(tf.map_fn(subject.decode, image_bytes, fn_output_signature=pixels))

    module = tf.Module()
    # Where a module does not name them, the variables are not saved.
    module.weights = answer.get_concrete_function().graph.variables
    signatures = {FROM_BYTES: from_bytes, FROM_PIXELS: from_pixels}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # it only answers
    tf.saved_model.save(module, str(path), signatures, options)


def load(subject: ExportSource, path: Path) -> Answer:
    import tensorflow as tf

    served = tf.saved_model.load(str(path)).signatures[FROM_BYTES]

    def answer(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        found = served(**{IMAGE_BYTES: tf.constant(contents)})
        return found["probabilities"].numpy(), found["decision"].numpy()

    return answer


def usage(subject: ExportSource) -> str:
    (height, width, _), count = subject.pixels, len(subject.classes)
    return f"""\
It takes the bytes of JPEG, PNG, BMP, GIF and WebP files as they are, and turns, resizes and scales
them itself. Broken bytes are an error of the whole call.

| signature | takes |
|---|---|
| `{FROM_BYTES}` | `{IMAGE_BYTES}`, string [B] |
| `{FROM_PIXELS}` | `images`, uint8 [B, {height}, {width}, 3], RGB |

| gives | |
|---|---|
| `labels` | string [B], the answer; `{UNCERTAIN}` where the rule leaves it open |
| `decision` | int32 [B], the answer's index; -1 where the rule leaves it open |
| `probabilities` | float32 [B, {count}] |
| `classes` | string [B, {count}], the label of each probability |

Run beside the folder `1`, with the package tensorflow:

```python
import sys

import tensorflow as tf

model = tf.saved_model.load("1").signatures["{FROM_BYTES}"]
contents = [open(path, "rb").read() for path in sys.argv[1:]]
answers = model({IMAGE_BYTES}=tf.constant(contents))
labels, decisions, probabilities = (
    answers[name].numpy() for name in ("labels", "decision", "probabilities")
)
for path, label, decision, row in zip(sys.argv[1:], labels, decisions, probabilities):
    chance = row[decision] if decision >= 0 else max(row)
    print(path, label.decode("utf-8", "backslashreplace"), float(chance), sep="\\t")
```

{_serving()}"""


def _serving() -> str:
    made_with = describe_software()["tensorflow"]
    return f"""\
TensorFlow Serving takes the folder that this card lies in, as version 1 of a model; it should not
be older than TensorFlow {made_with}, which wrote it. Started in this folder, in either way:

```sh
docker run --rm -p 8501:8501 -v "$PWD:/models/images" -e MODEL_NAME=images tensorflow/serving
tensorflow_model_server --rest_api_port=8501 --model_name=images --model_base_path="$PWD"
```

and asked, for any number of images:

```sh
{{ printf '{{"instances": [{{"{IMAGE_BYTES}": {{"b64": "'
  base64 < image.jpg | tr -d '\\n'
  printf '"}}}}]}}'; }} |
  curl --data-binary @- http://localhost:8501/v1/models/images:predict
```

With `--enable_batching` a broken image fails the requests of others that are computed with it."""


FORMAT = ExportFormat("SavedModel", "1", BYTES, write, load, usage)
