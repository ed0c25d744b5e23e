"""Exports to a SavedModel for TensorFlow Serving: encoded bytes in, labels out.

The first dimension of every output is the batch, also of `classes`: TensorFlow Serving splits
batched results along it, and its REST API requires it. `classes` holds the label of each
probability, as in its Classify API. The input's name ends in `_bytes`, so that REST takes
{"b64": …}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.export.export_source import (
    UNCERTAIN,
    ExportFormat,
    ExportSource,
    PredictFunction,
)
from engine.runtime.hardware import describe_software

IMAGE_BYTES = "image_bytes"
FROM_BYTES, FROM_PIXELS = "serving_default", "pixels"


def write(source: ExportSource, path: Path) -> None:
    """Writes two signatures over the same weights: `serving_default` and `pixels`."""
    import tensorflow as tf

    from engine.export import inference_function

    predict = inference_function.build(source)
    # Bytes of a folder's name that are not valid UTF-8 stay as they are.
    names = [name.encode("utf-8", "surrogateescape") for name in source.classes]

    def predict_labels(images: Any) -> dict[str, Any]:
        outputs = predict(images)
        decision = outputs["decision"]
        indices = tf.where(decision < 0, len(names), decision)
        labels = tf.gather(tf.constant([*names, UNCERTAIN.encode()]), indices)
        classes = tf.broadcast_to(tf.constant(names), tf.shape(outputs["probabilities"]))
        return {**outputs, "labels": labels, "classes": classes}

    @tf.function(autograph=False, input_signature=predict.input_signature)
    def from_pixels(images: Any) -> dict[str, Any]:
        return predict_labels(images)

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=IMAGE_BYTES)]
    )
    def from_bytes(image_bytes: Any) -> dict[str, Any]:
        pixels = tf.TensorSpec(source.input_shape, tf.uint8)
        return predict_labels(tf.map_fn(source.decode, image_bytes, fn_output_signature=pixels))

    module = tf.Module()
    # Variables are saved only if the module tracks them.
    module.weights = predict.get_concrete_function().graph.variables
    signatures = {FROM_BYTES: from_bytes, FROM_PIXELS: from_pixels}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # inference only
    tf.saved_model.save(module, str(path), signatures, options)


def load(source: ExportSource, path: Path) -> PredictFunction:
    import tensorflow as tf

    signature = tf.saved_model.load(str(path)).signatures[FROM_BYTES]

    def predict(contents: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        outputs = signature(**{IMAGE_BYTES: tf.constant(contents)})
        return outputs["probabilities"].numpy(), outputs["decision"].numpy()

    return predict


def usage(source: ExportSource) -> str:
    (height, width, _), count = source.input_shape, len(source.classes)
    return f"""\
The model takes the bytes of JPEG, PNG, BMP, GIF and WebP files, and rotates, resizes and scales the
images itself. One unreadable image fails the whole call.

| signature | input |
|---|---|
| `{FROM_BYTES}` | `{IMAGE_BYTES}`, string [B] |
| `{FROM_PIXELS}` | `images`, uint8 [B, {height}, {width}, 3], RGB |

| output | |
|---|---|
| `labels` | string [B], the decision by the rule, or `{UNCERTAIN}` |
| `decision` | int32 [B], the index of that label, -1 for uncertain |
| `probabilities` | float32 [B, {count}] |
| `classes` | string [B, {count}], the label of each probability |

Run in the folder that holds `1`, with the package tensorflow:

```python
import sys

import tensorflow as tf

model = tf.saved_model.load("1").signatures["{FROM_BYTES}"]
contents = [open(path, "rb").read() for path in sys.argv[1:]]
outputs = model({IMAGE_BYTES}=tf.constant(contents))
labels, decisions, probabilities = (
    outputs[name].numpy() for name in ("labels", "decision", "probabilities")
)
for path, label, decision, row in zip(sys.argv[1:], labels, decisions, probabilities):
    probability = row[decision] if decision >= 0 else max(row)
    print(path, label.decode("utf-8", "backslashreplace"), float(probability), sep="\\t")
```

{_tensorflow_serving()}"""


def _tensorflow_serving() -> str:
    version = describe_software()["tensorflow"]
    return f"""\
TensorFlow Serving loads this folder as version 1 of a model. Use a version of it that is not older
than TensorFlow {version}, which wrote the model. To start it in this folder, run either command:

```sh
docker run --rm -p 8501:8501 -v "$PWD:/models/images" -e MODEL_NAME=images tensorflow/serving
tensorflow_model_server --rest_api_port=8501 --model_name=images --model_base_path="$PWD"
```

To send it a request, which may hold any number of images:

```sh
{{ printf '{{"instances": [{{"{IMAGE_BYTES}": {{"b64": "'
  base64 < image.jpg | tr -d '\\n'
  printf '"}}}}]}}'; }} |
  curl --data-binary @- http://localhost:8501/v1/models/images:predict
```

With `--enable_batching` an unreadable image fails every request in its batch."""


FORMAT = ExportFormat("SavedModel", "1", write, load, usage, takes_bytes=True)
