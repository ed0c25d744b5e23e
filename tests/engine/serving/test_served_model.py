"""The served model against the network as computed by Keras."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.runs.load_run import load_run
from engine.serving import served_model
from tests.engine import saved_run

CLASSES = ("a", "b", "c")
RULE = DecisionRule(temperature=1.5, positive_class="b", threshold=0.3)


@pytest.fixture(scope="module", params=[0, 5], ids=["one layer", "a hidden layer"])
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "run"
    return saved_run.save(place, RULE, CLASSES, hidden_units=request.param)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_served_model_predicts_as_network_at_every_batch_size(run, monkeypatch):
    """Nothing is traced after the measurement of the batches."""
    network = load_run(run).model
    served = served_model.load(run, "float32", print)
    seconds = served_model.measure_batches(served, [1, 2, 5])
    assert (served.classes, served.rule, served.mode) == (CLASSES, RULE, FLOAT32)
    assert set(seconds) == {1, 2, 5}
    assert min(seconds.values()) > 0
    expected = {n: network(images(n).astype(np.float32), training=False).numpy() for n in (1, 2, 5)}
    traced = []
    monkeypatch.setattr(tf, "cast", lambda *_: traced.append(1))  # the first call of a trace
    for count, logits in expected.items():
        probabilities = decision_rule.probabilities(RULE, logits)
        assert np.ptp(probabilities) > 1e-3
        predictions = served_model.predict(served, images(count))
        np.testing.assert_allclose(predictions, probabilities, rtol=1e-4, atol=1e-5)
    assert not traced


def test_served_model_auto_uses_fastest_precision_within_tolerance(run, monkeypatch):
    """Here bfloat16; the head and the probabilities stay in float32."""
    half = ComputeMode("mixed_bfloat16")
    monkeypatch.setattr(precision, "available_modes", lambda: [FLOAT32, half])
    monkeypatch.setattr(precision, "choose_trial", lambda trials: trials[1])
    messages = []
    served = served_model.load(run, "auto", messages.append)
    assert served.mode == half
    assert len(messages) == 3
    assert "float32" in messages[1]
    predictions = served_model.predict(served, images(4))
    expected = served_model.predict(served_model.load(run, "float32", print), images(4))
    assert predictions.dtype == np.float32
    assert 0 < precision.relative_distance(predictions, expected) < 0.5, (
        "random weights amplify rounding"
    )


def test_synthetic_images_differ():
    drawn = served_model.synthetic_images(5, (6, 7))
    assert (drawn.shape, drawn.dtype) == ((5, 6, 7, 3), np.uint8)
    assert len({one.tobytes() for one in drawn}) == 5
