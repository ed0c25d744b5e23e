"""The SavedModel as a stranger has it: from the bytes of files, without this project."""

import json

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import RESIZES
from engine.evaluation import decision_rule
from engine.export import saved_model
from engine.inference import predict as prediction
from engine.inference import predictor
from pipelines.predict.image_stream import ImageStream
from tests.engine.export import leaving
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

STRANGER = """
import json, sys, tensorflow as tf
contents = tf.constant([open(path, "rb").read() for path in sys.argv[1:]])
for resize in ("squash", "crop", "pad"):
    found = tf.saved_model.load(resize).signatures["serving_default"](image_bytes=contents)
    found = {name: value.numpy() for name, value in found.items()}
    for name in ("labels", "classes"):
        found[name] = found[name].astype(str)
    print(json.dumps({name: value.tolist() for name, value in found.items()}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Every kind of file, at sizes that are odd."""
    place = tmp_path_factory.mktemp("files")
    return [
        every_format.write(place, kind, SIZES[number % len(SIZES)], number)
        for number, kind in enumerate(KINDS)
    ]


def predicted(given, files) -> np.ndarray:
    """As bin/predict has it: read, resized and answered by the project itself."""
    recipe, rule = given.opened.recipe, given.rule

    def forward(pixels):
        return tf.nn.softmax(given.opened.model(pixels, training=False) / rule.temperature)

    model = predictor.Predictor(forward, given.classes, recipe.image_size, recipe.resize, rule)
    stream = ImageStream(list(map(str, files)), recipe.image_size, recipe.resize, 2)
    answers = list(prediction.predict(model, stream.groups(8), 8, len(given.classes)))
    return np.array([[dict(one.labels)[name] for name in given.classes] for one in answers])


@pytest.fixture(scope="module")
def answered(files, tmp_path_factory):
    """resize -> (subject, what a stranger gets of all files)."""
    place = tmp_path_factory.mktemp("resizes")
    given = {r: leaving.subject(leaving.RULES["both"], resize=r) for r in RESIZES}
    for resize, subject in given.items():
        saved_model.write(subject, place / resize)
    lines = leaving.as_a_stranger(STRANGER, *files, cwd=place).splitlines()
    return {
        resize: (given[resize], json.loads(line))
        for resize, line in zip(RESIZES, lines, strict=True)
    }


@pytest.mark.parametrize("resize", RESIZES)
def test_every_kind_of_file_is_answered_as_by_prediction(files, answered, resize):
    given, found = answered[resize]
    wanted = predicted(given, files)
    assert np.abs(np.array(found["probabilities"]) - wanted).max() < 1e-5
    decided = decision_rule.decide(given.rule, given.classes, wanted.astype(np.float32)).tolist()
    assert found["decision"] == decided
    names = [*leaving.CLASSES, "uncertain"]
    assert found["labels"] == [names[place] for place in decided]
    assert found["classes"] == [list(leaving.CLASSES)] * len(files)
    assert len(np.unique(wanted.argmax(-1))) > 1, "images that differ"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "1"
    given = leaving.subject()
    saved_model.write(given, place)
    return given, tf.saved_model.load(str(place))


def test_every_input_and_output_begins_with_the_batch(served):
    """As TensorFlow Serving wants it where it computes several requests at once."""
    for name, entry in (("serving_default", "image_bytes"), ("pixels", "images")):
        signature = served[1].signatures[name]
        assert list(signature.structured_input_signature[1]) == [entry]
        assert signature.structured_input_signature[1][entry].shape[0] is None
        outputs = signature.structured_outputs
        assert set(outputs) == {"labels", "decision", "probabilities", "classes"}
        assert all(tensor.shape[0] is None for tensor in outputs.values())


def test_the_second_signature_takes_pixels(served):
    given, model = served
    images = leaving.smooth_images(5)
    found = model.signatures["pixels"](images=tf.constant(images))
    assert np.abs(found["probabilities"] - leaving.wanted(given, images)).max() < 1e-5


@pytest.mark.parametrize(
    "broken",
    [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a", b"BM"],
)
def test_broken_bytes_are_an_error_and_the_model_goes_on(served, files, broken):
    model = served[1].signatures["serving_default"]
    sound = files[0].read_bytes()
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(image_bytes=tf.constant([sound, broken]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        model(image_bytes=tf.constant([sound[: len(sound) // 2]]))
    assert model(image_bytes=tf.constant([sound]))["probabilities"].shape == (1, 3)
