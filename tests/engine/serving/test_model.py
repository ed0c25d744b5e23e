"""The model as it is served, against the network as Keras computes it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.runs.load_run import load_run
from engine.serving import model
from tests.engine import saved_run

CLASSES = ("a", "b", "c")
RULE = DecisionRule(temperature=1.5, positive_class="b", threshold=0.3)


@pytest.fixture(scope="module", params=[0, 5], ids=["one layer", "a hidden layer"])
def run(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "run"
    return saved_run.save(place, RULE, CLASSES, hidden_units=request.param)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_answers_are_those_of_the_network_at_every_size(run, monkeypatch):
    """And nothing is traced any more once its times are known."""
    network = load_run(run).model
    served = model.load(run, "float32", print)
    seconds = model.seconds(served, [1, 2, 5])
    assert (served.classes, served.rule, served.mode) == (CLASSES, RULE, FLOAT32)
    assert set(seconds) == {1, 2, 5}
    assert min(seconds.values()) > 0
    wanted = {n: network(images(n).astype(np.float32), training=False).numpy() for n in (1, 2, 5)}
    traced = []
    monkeypatch.setattr(tf, "cast", lambda *_: traced.append(1))  # what the program begins with
    for count, logits in wanted.items():
        chances = decision_rule.probabilities(RULE, logits)
        assert np.ptp(chances) > 1e-3
        found = model.answers(served, images(count))
        np.testing.assert_allclose(found, chances, rtol=1e-4, atol=1e-5)
    assert not traced


def test_auto_takes_what_was_fastest_among_the_sound(run, monkeypatch):
    """Bfloat16 where that was tried; its head stays in float32, and so do probabilities."""
    half = ComputeMode("mixed_bfloat16")
    monkeypatch.setattr(precision, "available_modes", lambda: [FLOAT32, half])
    monkeypatch.setattr(precision, "choose_trial", lambda trials: trials[1])
    said = []
    served = model.load(run, "auto", said.append)
    assert served.mode == half
    assert len(said) == 2
    assert "float32" in said[0]
    found = model.answers(served, images(4))
    wanted = model.answers(model.load(run, "float32", print), images(4))
    assert found.dtype == np.float32
    assert 0 < precision.relative_distance(found, wanted) < 0.5, "random weights blow rounding up"


def test_a_run_without_a_model_is_told(run, tmp_path):
    (tmp_path / "recipe.json").write_bytes(run.recipe.read_bytes())
    with pytest.raises(UserError, match="holds no model yet"):
        model.load(type(run)(tmp_path), "float32", print)


def test_drawn_images_differ():
    drawn = model.drawn(5, (6, 7))
    assert (drawn.shape, drawn.dtype) == ((5, 6, 7, 3), np.uint8)
    assert len({one.tobytes() for one in drawn}) == 5
