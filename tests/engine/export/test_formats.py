"""Every format against Keras and SciPy: probabilities, decisions, any number of images."""

import io
import json
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from engine.evaluation import decision_rule
from engine.export import litert
from engine.export.formats import FORMATS
from engine.export.subject import BYTES, FLOAT16, FLOAT32, INT8, PRECISIONS
from engine.models import classifier
from tests.engine import small
from tests.engine.backbone_families import FAMILIES
from tests.engine.export import leaving

TOLERANCE = 1e-5  # of probabilities, float32


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def oblong(count: int) -> np.ndarray:
    return leaving.smooth_images(count, 10)[:, :, 2:8]


def entering(name: str, images: np.ndarray):
    return [png(image) for image in images] if FORMATS[name].takes == BYTES else images


def exported(name, given, place):
    """The path and the answers of an export."""
    path = place / FORMATS[name].path
    FORMATS[name].write(given, path)
    return path, FORMATS[name].load(given, path)


@pytest.fixture(scope="module", params=FORMATS)
def out(request, tmp_path_factory):
    """(format, subject, path, answer): a rule with everything, odd names, an oblong network."""
    rule = decision_rule.DecisionRule(
        temperature=0.7, positive_class=leaving.ODD[1], threshold=0.3, abstain=0.5
    )
    given = leaving.subject(rule, leaving.ODD, leaving.oblong())
    return request.param, given, *exported(request.param, given, tmp_path_factory.mktemp("out"))


@pytest.mark.parametrize("count", [1, 3, 32])
def test_any_number_of_images_at_once(out, count):
    name, given, _, answer = out
    images = oblong(count)
    chances, decisions = answer(entering(name, images))
    assert chances.dtype == np.float32
    assert np.abs(chances - leaving.wanted(given, images)).max() < TOLERANCE
    np.testing.assert_array_equal(
        decisions, decision_rule.decide(given.rule, given.classes, chances)
    )


def test_the_labels_come_back_as_they_were(out):
    """Commas, line breaks, bytes that are no UTF-8."""
    name, given, path, _ = out
    if name == "saved_model":
        found = tf.saved_model.load(str(path)).signatures["pixels"](images=tf.constant(oblong(2)))
        labels = [label.decode("utf-8", "surrogateescape") for label in found["classes"][1].numpy()]
    elif name == "onnx":
        properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        labels = json.loads(properties["labels"])
    else:
        with zipfile.ZipFile(path) as files:
            assert files.testzip() is None
            labels = json.loads(files.read("model.json"))["labels"]
    assert tuple(labels) == given.classes


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rule", ["sharp", "shy"])
def test_threshold_and_abstaining_travel(name, rule, tmp_path):
    given = leaving.subject(leaving.RULES[rule])
    images = leaving.smooth_images(8)
    decisions = exported(name, given, tmp_path)[1](entering(name, images))[1]
    want = decision_rule.decide(given.rule, given.classes, leaving.wanted(given, images))
    np.testing.assert_array_equal(decisions, want)


# Smaller ones end in maps of a single pixel, where tf2onnx 1.17 gets a LayerNormalization wrong.
SIDES = {**FAMILIES, "convnext_tiny": 64}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("backbone", SIDES)
def test_every_family_of_networks(name, backbone, tmp_path):
    side = SIDES[backbone]
    network = classifier.build(small.recipe(backbone=backbone, image_size=(side, side)), 3)
    small.enliven(network.model)
    images = leaving.smooth_images(3, side)
    kernel, bias = network.head.get_weights()  # made a head that tells the images apart
    logits = network.model(images.astype(np.float32)).numpy()
    spread = logits.std(0).max()
    network.head.set_weights([kernel / spread, bias - logits.mean(0) / spread])
    given = leaving.subject(network=network)
    chances, _ = exported(name, given, tmp_path)[1](entering(name, images))
    wanted = leaving.wanted(given, images)
    assert np.abs(chances - wanted).max() < 10 * TOLERANCE
    assert wanted.std(0).max() > 1000 * TOLERANCE, "else any answer would do"
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """precision -> (subject, path, answer), of a network that is large enough to shrink."""
    found = {}
    network = classifier.build(small.recipe(backbone="mobilenet"), 3)
    small.enliven(network.model)
    for precision in PRECISIONS:
        changes = {"precision": precision, "samples": leaving.smooth_images(8, 32)}
        given = leaving.subject(leaving.RULES["both"], network=network, **changes)
        found[precision] = (given, *exported("litert", given, tmp_path_factory.mktemp(precision)))
    return found


def test_litert_shrinks_with_the_precision(lite):
    sizes = {precision: path.stat().st_size for precision, (_, path, _) in lite.items()}
    assert sizes[FLOAT16] < 0.6 * sizes[FLOAT32]
    assert sizes[INT8] < 0.4 * sizes[FLOAT32]
    weights = lite[INT8][0].opened.model.weights
    assert sizes[INT8] < 0.5 * sum(variable.numpy().nbytes for variable in weights)


@pytest.mark.parametrize(("precision", "apart"), [(FLOAT32, 1e-5), (FLOAT16, 1e-2), (INT8, 0.25)])
def test_litert_stays_near_in_every_precision(lite, precision, apart):
    given, _, answer = lite[precision]
    images = leaving.smooth_images(8, 32)
    chances, decisions = answer(images)
    assert np.abs(chances - leaving.wanted(given, images)).max() < apart
    np.testing.assert_array_equal(
        decisions, decision_rule.decide(given.rule, given.classes, chances)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_litert_takes_bytes_and_says_what_they_are(lite, precision):
    _, path, _ = lite[precision]
    interpreter = Interpreter(str(path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["decision", "probabilities"]}
    }
    entry = interpreter.get_input_details()[0]
    assert entry["dtype"] == np.uint8
    assert entry["shape_signature"].tolist() == [-1, 32, 32, 3]


def test_int8_ends_in_float32(lite):
    """256 levels of a probability would be too few, and would tie."""
    interpreter = Interpreter(str(lite[INT8][1]))
    kinds = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    operations = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    names = [op["op_name"] for op in operations]
    assert np.int8 in [kinds[place] for op in operations for place in op["outputs"]]
    last = operations[names.index("SOFTMAX") :]
    assert len(last) > 5
    assert np.int8 not in [kinds[i] for op in last for i in (*op["inputs"], *op["outputs"])]


def test_labels_txt_has_a_line_for_each_label(tmp_path):
    given = leaving.subject(classes=leaving.ODD)
    path, _ = exported("litert", given, tmp_path)
    with zipfile.ZipFile(path) as files:
        entries = {entry.filename: entry.compress_type for entry in files.infolist()}
        lines = files.read(litert.LABELS).decode().split("\n")
    assert entries[litert.LABELS] == zipfile.ZIP_STORED
    assert lines == ["naïve, 猫", "two\\nlines\\t<b>|$x$_", "caf\\xe9 \\n", ""]


def test_an_onnx_file_is_sound_and_knows_what_it_is(tmp_path):
    given = leaving.subject(leaving.RULES["sharp"], resize="crop")
    path, _ = exported("onnx", given, tmp_path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 8, 8, 3], "probabilities": ["batch", 3], "decision": ["batch"]
    }  # fmt: skip
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["labels"]) == list(leaving.CLASSES)
    assert json.loads(properties["rule"])["threshold"] == 0.1
    assert float(properties["temperature"]) == 0.4
    assert properties["resize"] == "crop"
    assert json.loads(properties["image_size"]) == [8, 8]
    assert properties["backbone"] == "mobilenet_v2"


def test_plain_keras_loads_the_keras_file(tmp_path):
    given = leaving.subject()
    exported("keras", given, tmp_path)
    images = leaving.smooth_images(3)
    np.save(tmp_path / "images.npy", images)
    code = """
import keras, numpy as np
model = keras.saving.load_model("model.keras", safe_mode=True)
np.save("found.npy", model.predict(np.load("images.npy"), verbose=0))
print(all(type(layer).__module__.startswith("keras.") for layer in model.layers))
"""
    assert leaving.as_a_stranger(code, cwd=tmp_path).split() == ["True"]
    apart = np.abs(np.load(tmp_path / "found.npy") - leaving.wanted(given, images)).max()
    assert apart < TOLERANCE
