"""The program that many images are answered in: tried where it pays, sound, and none is lost."""

import dataclasses

import numpy as np
import pytest

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode, PrecisionTrial
from engine.inference import batch_predict, predict, predictor
from tests.engine.saved_run import save

HALF = ComputeMode("mixed_bfloat16")
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> predictor.Predictor:
    return predictor.from_run(save(tmp_path_factory.mktemp("run"), hidden_units=5))


def groups(count: int = 3):
    return iter([(["a"] * 8, [None] * 8, IMAGES)] * count)


@pytest.fixture
def told(monkeypatch):
    """What a machine that computes in half precision says of its trials, which are not measured."""
    found = []

    def trials(programs, make, inputs):
        found.append((programs, np.asarray(inputs)))
        for program in programs:
            make(program)
        return [PrecisionTrial(p, 100.0 * (n + 1), 0.01) for n, p in enumerate(programs)]

    monkeypatch.setattr(precision, "available_modes", lambda: [FLOAT32, HALF])
    monkeypatch.setattr(precision, "run_trials", trials)
    return found


def test_few_images_pay_for_no_trial(model, told):
    for count in (1, batch_predict.WORTH_TRIALS - 1):
        found, rest = batch_predict.fastest(model, groups(), count, print)
        assert found is model
        assert len(list(rest)) == 3
    assert told == []


def test_many_are_answered_in_what_is_fastest_on_the_first_of_them(model, told):
    lines = []
    found, rest = batch_predict.fastest(model, groups(), batch_predict.WORTH_TRIALS, lines.append)
    assert found.program == HALF
    assert len(list(rest)) == 3, "what was tried on is answered as well"
    assert np.array_equal(told[0][1], IMAGES)
    assert any("bfloat16" in line and "chosen" in line for line in lines)


def test_where_there_is_nothing_to_choose_nothing_is_tried(model, told, monkeypatch):
    monkeypatch.setattr(precision, "available_modes", lambda: [FLOAT32])
    assert batch_predict.fastest(model, groups(), 10**6, print)[0] is model
    assert told == []


def test_those_that_can_not_be_read_may_come_first(model, told):
    bad = (["a"] * 9, ["empty file"] * 9, IMAGES[:0])
    found, rest = batch_predict.fastest(
        model, iter([bad, bad, *groups()]), 10**6, lambda line: None
    )
    assert found.program == HALF
    assert len(list(rest)) == 5


@pytest.mark.parametrize("seen", [[], [(["a"], ["empty file"], IMAGES[:0])] * 9])
def test_where_nothing_can_be_read_nothing_is_tried(model, told, seen):
    found, rest = batch_predict.fastest(model, iter(seen), 10**6, print)
    assert found is model
    assert list(rest) == seen


def test_half_precision_comes_near_with_its_last_layers_in_float32(model):
    plain, half = model.probabilities(IMAGES).numpy(), predictor.in_program(model, HALF)
    chances = half.probabilities(IMAGES).numpy()
    assert half.program == HALF
    assert chances.dtype == np.float32
    np.testing.assert_allclose(chances.sum(-1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(chances, plain, rtol=0, atol=0.1)
    assert not np.array_equal(chances, plain)
    # Rounded to bfloat16 they would all be multiples of 2**-9 or so.
    assert len(np.unique(chances * 2**12 % 1)) > 3


def test_plain_float32_is_the_model_as_it_is(model):
    assert predictor.in_program(model, FLOAT32) is model


def test_the_rule_is_kept(model):
    asking = dataclasses.replace(model, rule=DecisionRule(abstain=1.0))
    for program in (FLOAT32, HALF):
        one = predictor.in_program(asking, program)
        (group,) = groups(1)
        decided = [answer.decision for answer in predict.answers(one, group, 8, 1)]
        chances = one.probabilities(IMAGES).numpy()
        wanted = decision_rule.decide(asking.rule, model.classes, chances)
        assert decided == [None if k < 0 else model.classes[k] for k in wanted]


def test_answers_do_not_depend_on_how_full_a_batch_is(model):
    (group,) = groups(1)
    whole = predict.answers(model, group, 8, 3)
    for count in (1, 3):
        few = (group[0][:count], group[1][:count], IMAGES[:count])
        assert predict.answers(model, few, 8, 3) == whole[:count]
    more = (["a"] * 11, [None] * 11, np.concatenate([IMAGES, IMAGES[:3]]))
    assert predict.answers(model, more, 8, 3) == whole + whole[:3]
