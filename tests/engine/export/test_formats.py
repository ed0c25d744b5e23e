"""Every format against Keras and SciPy: probabilities, decisions, any batch size."""

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
from engine.export.export_source import FLOAT16, FLOAT32, INT8, PRECISIONS
from engine.export.formats import FORMATS
from engine.models import classifier
from tests.engine import small
from tests.engine.backbone_families import FAMILIES
from tests.engine.export import export_cases

TOLERANCE = 1e-5  # of probabilities, float32


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def rectangular_images(count: int) -> np.ndarray:
    return export_cases.smooth_images(count, 10)[:, :, 2:8]


def export_inputs(name: str, images: np.ndarray):
    return [png(image) for image in images] if FORMATS[name].takes_bytes else images


def write_and_load(name, source, folder):
    """Writes an export; returns its path and its predict function."""
    path = folder / FORMATS[name].path
    FORMATS[name].write(source, path)
    return path, FORMATS[name].load(source, path)


@pytest.fixture(scope="module", params=FORMATS)
def export(request, tmp_path_factory):
    """(format, source, path, predict) with a full rule, odd names and a rectangular network."""
    rule = decision_rule.DecisionRule(
        temperature=0.7, positive_class=export_cases.ODD_NAMES[0], threshold=0.3, abstain=0.6
    )
    source = export_cases.export_source(
        rule, export_cases.ODD_NAMES, export_cases.rectangular_network()
    )
    return (
        request.param,
        source,
        *write_and_load(request.param, source, tmp_path_factory.mktemp("export")),
    )


@pytest.mark.parametrize("count", [1, 3, 32])
def test_export_predicts_any_batch_size(export, count):
    name, source, _, predict = export
    images = rectangular_images(count)
    probabilities, decisions = predict(export_inputs(name, images))
    assert probabilities.dtype == np.float32
    assert (
        np.abs(probabilities - export_cases.expected_probabilities(source, images)).max()
        < TOLERANCE
    )
    expected = decision_rule.decide(source.rule, source.classes, probabilities)
    np.testing.assert_array_equal(decisions, expected)
    if count == 32:
        assert set(expected) == {-1, 0, 1}
        assert set(probabilities.argmax(-1)) == {1}


def test_export_keeps_odd_labels(export):
    """Commas, line breaks, invalid UTF-8."""
    name, source, path, _ = export
    if name == "saved_model":
        outputs = tf.saved_model.load(str(path)).signatures["pixels"](
            images=tf.constant(rectangular_images(2))
        )
        labels = [
            label.decode("utf-8", "surrogateescape") for label in outputs["classes"][1].numpy()
        ]
    elif name == "onnx":
        properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        labels = json.loads(properties["labels"])
    else:
        with zipfile.ZipFile(path) as files:
            assert files.testzip() is None
            labels = json.loads(files.read("model.json"))["labels"]
    assert tuple(labels) == source.classes


# At smaller sizes tf2onnx 1.17 converts LayerNormalization on maps of one pixel wrongly.
SIDES = {**FAMILIES, "convnext_tiny": 64}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("backbone", SIDES)
def test_export_of_every_family_predicts_as_original(name, backbone, tmp_path):
    side = SIDES[backbone]
    network = classifier.build(small.recipe(backbone=backbone, image_size=(side, side)), 3)
    small.enliven(network.model)
    images = export_cases.smooth_images(3, side)
    kernel, bias = network.head.get_weights()  # rescaled so that predictions differ between images
    logits = network.model(images.astype(np.float32)).numpy()
    spread = logits.std(0).max()
    network.head.set_weights([kernel / spread, bias - logits.mean(0) / spread])
    source = export_cases.export_source(network=network)
    probabilities, _ = write_and_load(name, source, tmp_path)[1](export_inputs(name, images))
    expected = export_cases.expected_probabilities(source, images)
    assert np.abs(probabilities - expected).max() < 10 * TOLERANCE
    assert expected.std(0).max() > 1000 * TOLERANCE, "otherwise any prediction would pass"
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """precision -> (source, path, predict) of a network large enough for smaller files."""
    exports = {}
    network = classifier.build(small.recipe(backbone="mobilenet"), 3)
    small.enliven(network.model)
    for precision in PRECISIONS:
        changes = {"precision": precision, "calibration_images": export_cases.smooth_images(8, 32)}
        source = export_cases.export_source(export_cases.RULES["both"], network=network, **changes)
        exports[precision] = (
            source,
            *write_and_load("litert", source, tmp_path_factory.mktemp(precision)),
        )
    return exports


def test_litert_file_shrinks_with_precision(lite):
    sizes = {precision: path.stat().st_size for precision, (_, path, _) in lite.items()}
    assert sizes[FLOAT16] < 0.6 * sizes[FLOAT32]
    assert sizes[INT8] < 0.4 * sizes[FLOAT32]
    weights = lite[INT8][0].loaded_run.model.weights
    assert sizes[INT8] < 0.5 * sum(variable.numpy().nbytes for variable in weights)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(FLOAT32, 1e-5), (FLOAT16, 1e-2), (INT8, 0.25)]
)
def test_litert_predictions_stay_near_in_every_precision(lite, precision, tolerance):
    source, _, predict = lite[precision]
    images = export_cases.smooth_images(8, 32)
    probabilities, decisions = predict(images)
    assert (
        np.abs(probabilities - export_cases.expected_probabilities(source, images)).max()
        < tolerance
    )
    np.testing.assert_array_equal(
        decisions, decision_rule.decide(source.rule, source.classes, probabilities)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_litert_input_is_uint8_with_one_signature(lite, precision):
    _, path, _ = lite[precision]
    interpreter = Interpreter(str(path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["decision", "probabilities"]}
    }
    entry = interpreter.get_input_details()[0]
    assert entry["dtype"] == np.uint8
    assert entry["shape_signature"].tolist() == [-1, 32, 32, 3]


def test_litert_int8_softmax_stays_float32(lite):
    """An int8 softmax has only 256 levels, so that classes would tie."""
    interpreter = Interpreter(str(lite[INT8][1]))
    kinds = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    operations = [op for op in interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]
    names = [op["op_name"] for op in operations]
    assert np.int8 in [kinds[index] for op in operations for index in op["outputs"]]
    last = operations[names.index("SOFTMAX") :]
    assert len(last) > 5
    assert np.int8 not in [kinds[index] for op in last for index in (*op["inputs"], *op["outputs"])]


def test_litert_labels_file_has_one_line_per_label(tmp_path):
    source = export_cases.export_source(classes=export_cases.ODD_NAMES)
    path, _ = write_and_load("litert", source, tmp_path)
    with zipfile.ZipFile(path) as files:
        entries = {entry.filename: entry.compress_type for entry in files.infolist()}
        lines = files.read(litert.LABELS_FILE).decode().split("\n")
    assert entries[litert.LABELS_FILE] == zipfile.ZIP_STORED
    assert lines == ["naïve, 猫", "two\\nlines\\t<b>|$x$_", "caf\\xe9 \\n", ""]


def test_onnx_file_is_valid_and_holds_properties(tmp_path):
    source = export_cases.export_source(export_cases.RULES["sharp"], resize="crop")
    path, _ = write_and_load("onnx", source, tmp_path)
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
    assert json.loads(properties["labels"]) == list(export_cases.CLASSES)
    assert json.loads(properties["rule"])["threshold"] == 0.1
    assert float(properties["temperature"]) == 0.4
    assert properties["resize"] == "crop"
    assert json.loads(properties["image_size"]) == [8, 8]
    assert properties["backbone"] == "mobilenet_v2"
