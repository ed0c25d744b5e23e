"""The SavedModel loaded without this project, from the bytes of files."""

import json

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import RESIZES
from engine.evaluation import decision_rule
from engine.export import saved_model
from engine.inference import predictions as inference
from engine.inference import predictor
from pipelines.predict.image_stream import ImageStream
from tests.engine.export import export_cases
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

PROGRAM = """
import json, sys, tensorflow as tf
contents = tf.constant([open(path, "rb").read() for path in sys.argv[1:]])
for resize in ("squash", "crop", "pad"):
    outputs = tf.saved_model.load(resize).signatures["serving_default"](image_bytes=contents)
    outputs = {name: value.numpy() for name, value in outputs.items()}
    for name in ("labels", "classes"):
        outputs[name] = outputs[name].astype(str)
    print(json.dumps({name: value.tolist() for name, value in outputs.items()}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every kind of file, at odd sizes."""
    folder = tmp_path_factory.mktemp("files")
    return [
        every_format.write(folder, kind, SIZES[number % len(SIZES)], number)
        for number, kind in enumerate(KINDS)
    ]


def predict_by_project(source, files) -> np.ndarray:
    """Reads, resizes and predicts as bin/predict."""
    recipe, rule = source.loaded_run.recipe, source.rule

    def forward(pixels):
        return tf.nn.softmax(source.loaded_run.model(pixels, training=False) / rule.temperature)

    model = predictor.Predictor(forward, source.classes, recipe.image_size, recipe.resize, rule)
    stream = ImageStream(list(map(str, files)), recipe.image_size, recipe.resize, 2)
    predictions = list(inference.predict(model, stream.groups(8), 8, len(source.classes)))
    return np.array(
        [[dict(prediction.labels)[name] for name in source.classes] for prediction in predictions]
    )


@pytest.fixture(scope="module")
def outputs(files, tmp_path_factory):
    """resize -> (source, outputs for all files, computed without this project)."""
    folder = tmp_path_factory.mktemp("resizes")
    rule = export_cases.RULES["both"]
    sources = {resize: export_cases.export_source(rule, resize=resize) for resize in RESIZES}
    for resize, source in sources.items():
        saved_model.write(source, folder / resize)
    lines = export_cases.run_outside_project(PROGRAM, *files, cwd=folder).splitlines()
    return {
        resize: (sources[resize], json.loads(line))
        for resize, line in zip(RESIZES, lines, strict=True)
    }


@pytest.mark.parametrize("resize", RESIZES)
def test_saved_model_predicts_every_file_kind_as_predict(files, outputs, resize):
    source, saved = outputs[resize]
    expected = predict_by_project(source, files)
    assert np.abs(np.array(saved["probabilities"]) - expected).max() < 1e-5
    decisions = decision_rule.decide(source.rule, source.classes, expected.astype(np.float32))
    assert saved["decision"] == decisions.tolist()
    names = [*export_cases.CLASSES, "uncertain"]
    assert saved["labels"] == [names[index] for index in decisions]
    assert saved["classes"] == [list(export_cases.CLASSES)] * len(files)
    assert len(np.unique(expected.argmax(-1))) > 1, "the images differ"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaded") / "1"
    source = export_cases.export_source()
    saved_model.write(source, folder)
    return source, tf.saved_model.load(str(folder))


def test_saved_model_tensors_begin_with_batch(loaded):
    """TensorFlow Serving requires it for batching several requests."""
    for name, entry in (("serving_default", "image_bytes"), ("pixels", "images")):
        signature = loaded[1].signatures[name]
        assert list(signature.structured_input_signature[1]) == [entry]
        assert signature.structured_input_signature[1][entry].shape[0] is None
        outputs = signature.structured_outputs
        assert set(outputs) == {"labels", "decision", "probabilities", "classes"}
        assert all(tensor.shape[0] is None for tensor in outputs.values())


@pytest.mark.parametrize(
    "broken",
    [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a", b"BM"],
)
def test_saved_model_with_broken_bytes_fails_and_stays_usable(loaded, files, broken):
    model = loaded[1].signatures["serving_default"]
    intact = files[0].read_bytes()
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(image_bytes=tf.constant([intact, broken]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(image_bytes=tf.constant([intact[: len(intact) // 2]]))
    assert model(image_bytes=tf.constant([intact]))["probabilities"].shape == (1, 3)
