"""bin/evaluate: decision rules that are saved and removed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.intervals import wilson
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup
from tests.engine.commands.evaluated import CLASSES, RULE, expected_predictions, rule_of


def test_min_recall_saves_threshold_fitted_on_validation_split(call, evaluate, run):
    labels, probabilities = expected_predictions(run, "validation")
    flags = (f"--run_dir={run.path}", "--split=train")
    found = evaluate(*flags, "--positive_class=blue", "--min_recall=0.8")
    assert f"saved with the model, {run.best}" in call.said.err
    own = np.sort(probabilities[labels == 0, 0])[::-1]
    rule = rule_of(run)
    assert rule == DecisionRule(2.5, "blue", rule.threshold, 0.8)
    assert rule.threshold == pytest.approx(own[int(np.ceil(0.8 * len(own))) - 1], abs=1e-4)
    assert found["rule"] == dataclasses.asdict(rule)
    assert found["operating_on_validation"]["recall"] >= 0.8
    labels, probabilities = expected_predictions(run, "train")
    positive = probabilities[:, 0] >= rule.threshold
    operating = found["operating"]
    assert operating["hits"] == (positive & (labels == 0)).sum()
    assert operating["false_alarms"] == (positive & (labels == 1)).sum()
    assert operating["hits"] + operating["misses"] + operating["negatives"] == found["count"] == 39
    right = (np.where(positive, 0, 1) == labels).sum()
    assert right != (probabilities.argmax(-1) == labels).sum(), "else little is tested"
    decided = found["decided"]
    assert (decided["accuracy"], decided["sure"], decided["uncertain"]) == (right / 39, 39, 0)
    assert decided["accuracy_interval"] == pytest.approx(wilson(int(right), 39))
    out = call("evaluate", *flags)
    assert "validation split" not in out
    assert "blue is predicted from a probability of 0." in out
    assert f"found {operating['hits']} of " in out
    assert f"false alarms: {operating['false_alarms']} of {operating['negatives']} others" in out


@pytest.mark.parametrize("abstain", [None, 0.7, 1.0])
def test_table_has_accuracy_of_rule_decisions(call, run, abstain):
    plain = call("evaluate", f"--run_dir={run.path}")
    assert plain.startswith("13 images of the validation split: accuracy ")
    assert "rule" not in plain
    labels, probabilities = expected_predictions(run, "validation")
    level = abstain and max(abstain // 1, float(np.quantile(probabilities.max(-1), abstain)))
    threshold = float(np.quantile(probabilities[:, 0], 0.1)) + 1e-4
    rule = DecisionRule(2.5, "blue", threshold, 0.9, level)
    best_model.save_decision_rule(run, rule)
    decided = decision_rule.decide(rule, CLASSES, probabilities)
    sure, right = int((decided >= 0).sum()), int((decided == labels).sum())
    assert right != (probabilities.argmax(-1) == labels).sum(), "else little is tested"
    first, _, by_rule = call("evaluate", f"--run_dir={run.path}").split("\n")[:3]
    assert first.startswith("13 images of the validation split, by the likeliest class: accuracy ")
    if abstain == 1:
        assert by_rule == "by the saved rule: no prediction, all are uncertain"
        return
    assert by_rule.startswith(f"by the saved rule: accuracy {right / sure:.2%} (95%: ")
    of = f" of the {sure} images that are not uncertain"
    assert by_rule.endswith(of) == (abstain is not None)


def test_abstain_extends_rule_and_plain_removes_it(call, evaluate, run):
    best_model.save_decision_rule(run, RULE)
    _, probabilities = expected_predictions(run, "validation")
    level, flags = float(np.median(probabilities.max(-1))), (f"--run_dir={run.path}",)
    found = evaluate(*flags, f"--abstain={level}")
    assert rule_of(run) == dataclasses.replace(RULE, abstain=level)
    uncertain = int((probabilities.max(-1) < level).sum())
    assert found["abstaining"]["uncertain"] == pytest.approx(uncertain, abs=1)
    assert found["operating"]["threshold"] == 0.4
    out = call("evaluate", *flags)
    assert "before abstaining" in out
    assert f"uncertain where no class reaches {level:.1%}: " in out
    found = evaluate(*flags, "--abstain=0")
    assert f"saved with the model, {run.best}" in call.said.err
    assert rule_of(run) == RULE
    assert (found["abstaining"], found["decided"]["uncertain"]) == (None, 0)
    arrays = best_model.load_best_model(run)[0]
    out = call("evaluate", *flags, "--plain")
    assert "uncertain" not in out
    assert "is predicted from" not in out
    assert rule_of(run) == DecisionRule(2.5)
    kept = best_model.load_best_model(run)[0]
    assert all(np.array_equal(*pair) for pair in zip(arrays, kept, strict=True))


def test_locked_run_is_evaluated_but_not_changed(call, evaluate, run):
    before = run.best.read_bytes()
    with RunLock(RunDirectory(run.path)):
        with pytest.raises(UserError, match=r"locked by process \d+ on .+; wait"):
            call("evaluate", f"--run_dir={run.path}", "--abstain=0.5")
        assert run.best.read_bytes() == before
        assert evaluate(f"--run_dir={run.path}")["count"] == 13


def test_unknown_positive_class_is_refused_before_tensorflow_starts(call, models, monkeypatch):
    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    flags = (f"--run_dir={models['one'].path}", "--positive_class=bleu", "--min_recall=1")
    with pytest.raises(UserError, match=r"'bleu' does not exist \(did you mean 'blue'\?\)"):
        call("evaluate", *flags)
    assert rule_of(models["one"]) == DecisionRule(2.5)


def test_rule_of_unfinished_run_is_saved_with_a_warning(call, evaluate, run):
    run.result.unlink()
    evaluate(f"--run_dir={run.path}", "--abstain=0.5")
    assert "not finished: resuming it removes the rule again" in call.said.err


def test_split_without_positive_class_has_only_false_alarms(
    call, evaluate, run, coloured, tmp_path
):
    best_model.save_decision_rule(run, RULE)
    rows = ["path,label,split"]
    for number in range(4):
        rows.append(f"{coloured}/blue/{number:02}.jpg,blue,train")
        rows.append(f"{coloured}/red/{number:02}.jpg,red,{'test' if number else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    data = (f"--manifest={tmp_path / 'list.csv'}", "--split=test", "--validation_fraction=2")
    flags = (f"--run_dir={run.path}", f"--manifest_root={coloured}", *data)
    found = evaluate(*flags)
    assert found["per_class"]["blue"]["roc_area"] is None
    assert found["operating"]["negatives"] == found["count"] == 3
    assert "none is of the class; false alarms: " in call("evaluate", *flags)


def test_threshold_is_fitted_on_validation_and_measured_on_test(evaluate, tested):
    flags = ("--positive_class=blue", "--min_recall=0.5")
    found = evaluate(f"--run_dir={tested.path}", *flags)
    assert (found["split"], found["count"]) == ("test", 4)
    fitted = found["operating_on_validation"]
    assert fitted["hits"] + fitted["misses"] == 2
    assert fitted["recall"] >= 0.5
