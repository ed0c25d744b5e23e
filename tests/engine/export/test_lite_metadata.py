"""What a `.tflite` file says of itself, and that it is fit for those who read that.

MediaPipe's ImageClassifier wants one output of one subgraph and TENSOR_AXIS_LABELS with it.
"""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from engine.evaluation import decision_rule
from engine.export import litert
from tests.engine.export import leaving, lite_reader

IMAGE, FEATURE = 2, 1  # of ContentProperties
NORMALIZATION, RGB, AXIS_LABELS = 1, 1, 2


def written(given, place):
    path = place / "model.tflite"
    litert.write(given, path)
    return path


def test_it_names_pixels_labels_and_files(tmp_path):
    path = written(leaving.subject(classes=leaving.ODD, network=leaving.oblong()), tmp_path)
    found = lite_reader.read(path.read_bytes())
    assert found["least_version"] == "1.0.0"
    assert [file["name"] for file in found["files"]] == ["model.json"]
    (graph,) = found["graphs"]
    (images,) = graph["inputs"]
    assert images["name"] == "images"
    size = {"width": 6, "height": 10}
    assert images["content"] == {"type": IMAGE, "properties": {"color_space": RGB, "size": size}}
    assert images["units"] == [{"type": NORMALIZATION, "options": {"mean": [0.0], "std": [1.0]}}]
    (chances,) = graph["outputs"]
    assert chances["name"] == "probabilities"
    assert chances["content"]["type"] == FEATURE
    (labels,) = chances["files"]
    assert (labels["name"], labels["type"]) == ("labels.txt", AXIS_LABELS)


@pytest.mark.parametrize("rule", ["tempered", "shy"])
def test_tensors_are_described_in_their_order(rule, tmp_path):
    path = written(leaving.subject(leaving.RULES[rule]), tmp_path)
    interpreter = Interpreter(str(path))
    (graph,) = lite_reader.read(path.read_bytes())["graphs"]
    shapes = [detail["shape"].tolist() for detail in interpreter.get_output_details()]
    sizes = {"decision": [1], "probabilities": [1, 3]}
    assert shapes == [sizes[tensor["name"]] for tensor in graph["outputs"]]
    labelled = [tensor["name"] for tensor in graph["outputs"] if tensor.get("files")]
    assert labelled == ["probabilities"]


def test_without_a_rule_the_likeliest_is_the_answer_and_the_only_output(tmp_path):
    given = leaving.subject(leaving.RULES["tempered"])
    path = written(given, tmp_path)
    assert len(Interpreter(str(path)).get_output_details()) == 1
    chances, decisions = litert.load(given, path)(leaving.smooth_images(8))
    np.testing.assert_array_equal(
        decisions, decision_rule.decide(given.rule, given.classes, chances)
    )
