"""Every format against Keras and SciPy: probabilities, decisions, any batch size."""

import io
import json
import os
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from engine.evaluation.decision_rule import DecisionRule
from engine.export import litert
from engine.export.export_source import FLOAT16, FLOAT32, INT8, PRECISIONS
from engine.export.formats import FORMATS
from engine.models import classifier
from tests.engine import small
from tests.engine.backbone_families import FAMILIES
from tests.engine.export import export_cases


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


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """format -> (source, path, predict): a full rule, odd names and a rectangular network."""
    rule = DecisionRule(0.7, positive_class=export_cases.ODD_NAMES[0], threshold=0.3, abstain=0.6)
    network = export_cases.rectangular_network()
    source = export_cases.export_source(rule, export_cases.ODD_NAMES, network)
    folder = tmp_path_factory.mktemp("exports")
    return {name: (source, *write_and_load(name, source, folder)) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 3, 32])
def test_export_predicts_any_batch_size(exports, name, count):
    source, _, predict = exports[name]
    images = rectangular_images(count)
    probabilities, decisions = predict(export_inputs(name, images))
    assert probabilities.dtype == np.float32
    export_cases.require_predictions(source, images, (probabilities, decisions))
    if count == 32:
        assert set(decisions) == {-1, 0, 1}
        assert set(probabilities.argmax(-1)) == {1}


@pytest.mark.parametrize("name", FORMATS)
def test_export_keeps_odd_labels(exports, name):
    """Commas, line breaks, invalid UTF-8."""
    source, path, _ = exports[name]
    if name == "saved_model":
        signature = tf.saved_model.load(str(path)).signatures["pixels"]
        outputs = signature(images=tf.constant(rectangular_images(2)))
        labels = [os.fsdecode(label) for label in outputs["classes"][1].numpy()]
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
    outputs = write_and_load(name, source, tmp_path)[1](export_inputs(name, images))
    export_cases.require_predictions(source, images, outputs, 1e-4)
    assert outputs[0].std(0).max() > 0.01, "otherwise any prediction would pass"
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """precision -> (source, path, predict) of a network large enough for smaller files."""
    exports = {}
    network = classifier.build(small.recipe(backbone="mobilenet"), 3)
    small.enliven(network.model)
    images = export_cases.smooth_images(8, 32)
    for precision in PRECISIONS:
        source = export_cases.export_source(
            export_cases.RULES["both"], export_cases.CLASSES, network, precision, images
        )
        folder = tmp_path_factory.mktemp(precision)
        exports[precision] = (source, *write_and_load("litert", source, folder))
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
    export_cases.require_predictions(source, images, predict(images), tolerance)


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


def test_litert_labels_file_has_one_line_per_label(exports):
    with zipfile.ZipFile(exports["litert"][1]) as files:
        entries = {entry.filename: entry.compress_type for entry in files.infolist()}
        lines = files.read(litert.LABELS_FILE).decode().split("\n")
    assert entries[litert.LABELS_FILE] == zipfile.ZIP_STORED
    assert lines == ["naïve, 猫", "two\\nlines\\t<b>|$x$_", "caf\\xe9 \\n", ""]


def test_onnx_file_is_valid_and_holds_properties(exports):
    model = onnx.load(exports["onnx"][1])
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 10, 6, 3], "probabilities": ["batch", 3], "decision": ["batch"]
    }  # fmt: skip
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["rule"])["threshold"] == 0.3
    assert float(properties["temperature"]) == 0.7
    assert properties["resize"] == "squash"
    assert json.loads(properties["image_size"]) == [10, 6]
    assert properties["backbone"] == "mobilenet_v2"
