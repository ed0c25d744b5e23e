"""Compute modes of a predictor: tried where it pays, within tolerance, and no group is lost."""

import dataclasses

import numpy as np
import pytest

from engine.core.dataset import ImageGroup
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode, PrecisionTrial
from engine.inference import predictor
from engine.inference.predictions import predict_group
from engine.inference.predictor import MIN_IMAGES_FOR_TRIALS
from engine.runs.load_run import load_run
from tests.engine.saved_run import save

HALF = ComputeMode("mixed_bfloat16")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
GROUP = ImageGroup(["a"] * 8, [None] * 8, IMAGES)
UNREADABLE = ImageGroup(["a"] * 9, ["empty file"] * 9, IMAGES[:0])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_run(save(tmp_path_factory.mktemp("run"), hidden_units=5))


@pytest.fixture(scope="module")
def model(loaded) -> predictor.Predictor:
    return predictor.from_classifier(loaded.recipe, loaded.classifier, loaded.classes, loaded.rule)


@pytest.fixture
def trials(monkeypatch):
    """Trials on a machine where half precision is faster; records their modes and inputs."""
    calls = []

    def run_trials(modes, specialise, inputs):
        calls.append((modes, np.asarray(inputs)))
        for mode in modes:
            specialise(mode)
        return [PrecisionTrial(mode, 100.0 * (n + 1), 0.01) for n, mode in enumerate(modes)]

    monkeypatch.setattr(precision, "available_modes", lambda: [FLOAT32, HALF])
    monkeypatch.setattr(precision, "run_trials", run_trials)
    return calls


def choose(model, groups, count=10**6, log=lambda line: None):
    return predictor.choose_fastest_mode(model, iter(groups), count, log)


@pytest.mark.parametrize("unreadable", [0, 2])
def test_many_images_use_the_mode_that_is_fastest_on_the_first_readable(model, trials, unreadable):
    lines = []
    groups = [UNREADABLE] * unreadable + [GROUP] * 3
    chosen, rest = choose(model, groups, MIN_IMAGES_FOR_TRIALS, lines.append)
    assert chosen.mode == HALF
    assert len(list(rest)) == unreadable + 3, "images of the trials are predicted too"
    assert np.array_equal(trials[0][1], IMAGES)
    assert any("bfloat16" in line and "chosen" in line for line in lines)


@pytest.mark.parametrize(
    ("groups", "count", "modes"),
    [
        ([GROUP] * 3, 1, [FLOAT32, HALF]),
        ([GROUP] * 3, MIN_IMAGES_FOR_TRIALS - 1, [FLOAT32, HALF]),
        ([GROUP] * 3, 10**6, [FLOAT32]),
        ([], 10**6, [FLOAT32, HALF]),
        ([UNREADABLE] * 9, 10**6, [FLOAT32, HALF]),
    ],
    ids=["one image", "few images", "one mode", "no images", "none readable"],
)
def test_no_trials_where_they_do_not_pay(model, trials, monkeypatch, groups, count, modes):
    monkeypatch.setattr(precision, "available_modes", lambda: modes)
    chosen, rest = choose(model, groups, count)
    assert chosen is model
    assert list(rest) == groups
    assert trials == []


def test_half_precision_is_close_with_its_last_layers_in_float32(model):
    plain, half = model.probabilities(IMAGES).numpy(), model.in_mode(HALF)
    probabilities = half.probabilities(IMAGES).numpy()
    assert half.mode == HALF
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(probabilities, plain, rtol=0, atol=0.1)
    assert not np.array_equal(probabilities, plain)
    # Rounded to bfloat16 they would all be multiples of 2**-9 or so.
    assert len(np.unique(probabilities * 2**12 % 1)) > 3


def test_float32_mode_is_the_model_itself_and_constant_kernels_are_close(model):
    assert model.in_mode(FLOAT32) is model
    constant = model.with_constant_kernels()
    np.testing.assert_allclose(
        constant.probabilities(IMAGES), model.probabilities(IMAGES), atol=1e-5
    )
    assert constant.in_mode(HALF).mode == HALF, "other modes can still be built"


@pytest.mark.parametrize("mode", [FLOAT32, HALF])
def test_every_mode_applies_the_rule(loaded, mode):
    rule = dataclasses.replace(loaded.rule, abstain=0.45)
    model = predictor.from_classifier(loaded.recipe, loaded.classifier, loaded.classes, rule)
    model = model.in_mode(mode)
    decisions = [one.decision for one in predict_group(model, GROUP, 8, 1)]
    probabilities = model.probabilities(IMAGES).numpy()
    expected = decision_rule.decide(DecisionRule(abstain=0.45), model.classes, probabilities)
    assert decisions == [None if k < 0 else model.classes[k] for k in expected]


def test_predictions_do_not_depend_on_how_full_a_batch_is(model):
    whole = predict_group(model, GROUP, 8, 3)
    for count in (1, 3):
        few = ImageGroup(["a"] * count, [None] * count, IMAGES[:count])
        assert predict_group(model, few, 8, 3) == whole[:count]
    more = ImageGroup(["a"] * 11, [None] * 11, np.concatenate([IMAGES, IMAGES[:3]]))
    assert predict_group(model, more, 8, 3) == whole + whole[:3]
