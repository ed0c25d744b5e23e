"""The metadata of a `.tflite` file, as its readers require it.

MediaPipe's ImageClassifier requires one subgraph with one output and TENSOR_AXIS_LABELS.
"""

import pytest
from ai_edge_litert.interpreter import Interpreter

from engine.export import litert
from tests.engine.export import export_cases, lite_metadata_reader

IMAGE, FEATURE = 2, 1  # of ContentProperties
NORMALIZATION, RGB, AXIS_LABELS = 1, 1, 2


def write_model(source, folder):
    path = folder / "model.tflite"
    litert.write(source, path)
    return path


def test_metadata_names_pixels_labels_and_files(tmp_path):
    path = write_model(
        export_cases.export_source(
            classes=export_cases.ODD_NAMES, network=export_cases.rectangular_network()
        ),
        tmp_path,
    )
    metadata = lite_metadata_reader.read_metadata(path.read_bytes())
    assert metadata["min_version"] == "1.0.0"
    assert [file["name"] for file in metadata["files"]] == ["model.json"]
    (graph,) = metadata["graphs"]
    (images,) = graph["inputs"]
    assert images["name"] == "images"
    size = {"width": 6, "height": 10}
    assert images["content"] == {"type": IMAGE, "properties": {"color_space": RGB, "size": size}}
    assert images["units"] == [{"type": NORMALIZATION, "options": {"mean": [0.0], "std": [1.0]}}]
    (probabilities,) = graph["outputs"]
    assert probabilities["name"] == "probabilities"
    assert probabilities["content"]["type"] == FEATURE
    (labels,) = probabilities["files"]
    assert (labels["name"], labels["type"]) == ("labels.txt", AXIS_LABELS)


@pytest.mark.parametrize("rule", ["tempered", "shy"])
def test_metadata_lists_outputs_in_model_order(rule, tmp_path):
    """Without a rule there is no `decision`, which is then the most likely label."""
    source = export_cases.export_source(export_cases.RULES[rule])
    path = write_model(source, tmp_path)
    (graph,) = lite_metadata_reader.read_metadata(path.read_bytes())["graphs"]
    details = Interpreter(str(path)).get_output_details()
    sizes = {"decision": [1], "probabilities": [1, 3]}
    assert [detail["shape"].tolist() for detail in details] == [
        sizes[tensor["name"]] for tensor in graph["outputs"]
    ]
    assert len(details) == (1 if rule == "tempered" else 2)
    labelled = [tensor["name"] for tensor in graph["outputs"] if tensor.get("files")]
    assert labelled == ["probabilities"]
    images = export_cases.smooth_images(8)
    export_cases.require_predictions(source, images, litert.load(source, path)(images))
