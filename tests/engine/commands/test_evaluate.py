"""bin/evaluate: metrics, decision rules that are saved and removed, comparisons of runs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from engine.commands.split_predictions import EvaluationData
from engine.core.digests import write
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.intervals import wilson
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup
from pipelines.decode.decode import decode
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import saved_run
from tests.engine.small_runs import small_recipe

CLASSES = ("blue", "red")
RULE = DecisionRule(2.5, "blue", 0.4, 0.9)


def with_data(recipe: Recipe, **changes) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes))


def rule_of(run: RunDirectory) -> DecisionRule:
    return best_model.decision_rule_of(run, best_model.load_best_model(run)[1])


@pytest.fixture(scope="module")
def models(coloured, tmp_path_factory) -> dict[str, RunDirectory]:
    """Two runs with random weights: right about as often as wrong."""
    folder = tmp_path_factory.mktemp("models")
    recipe = dataclasses.replace(small_recipe(coloured), seed=2)
    other = with_data(dataclasses.replace(recipe, seed=6), split_seed=3)
    runs = {
        "one": saved_run.save(folder / "one", DecisionRule(2.5), CLASSES, recipe),
        "other": saved_run.save(folder / "other", classes=CLASSES, recipe=other),
    }
    for run in runs.values():
        predict_both_classes(run)
    return runs


def predict_both_classes(run: RunDirectory) -> None:
    """Shifts the bias of the head so that the run predicts each class for some images."""
    log_odds = scipy.special.logit(expected_predictions(run, "validation")[1][:, 0])
    arrays, values = best_model.load_best_model(run)
    arrays[-1][0] -= np.quantile(log_odds, 0.55) * rule_of(run).temperature
    write(run.best, checkpoints.pack({"model": arrays}, values))


@pytest.fixture
def run(models, tmp_path) -> RunDirectory:
    """One that may be changed."""
    return RunDirectory(shutil.copytree(models["one"].path, tmp_path / "run"))


@pytest.fixture
def evaluate(call):
    """What bin/evaluate prints as JSON."""
    return lambda *flags: json.loads(call("evaluate", "--format=json", *flags))


def expected_predictions(run: RunDirectory, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a split of the run's data, image by image."""
    opened = load_run(run)
    examples = sources.load_examples(opened.recipe.data)
    examples = examples if split == "all" else examples.subset(split)
    images = [decode(Path(p).read_bytes(), *opened.recipe.image_size) for p in examples.paths]
    logits = opened.model(np.stack(images).astype(np.float32), training=False)
    scaled = np.asarray(logits, float) / opened.rule.temperature
    return examples.labels, scipy.special.softmax(scaled, -1)


def test_json_of_validation_split_has_every_metric(evaluate, models):
    labels, probabilities = expected_predictions(models["one"], "validation")
    found = evaluate(f"--run_dir={models['one'].path}")
    predicted = probabilities.argmax(-1)
    right = int((predicted == labels).sum())
    assert 0 < right < 13 == found["count"], "else little is tested"
    assert (found["split"], found["accuracy"]) == ("validation", right / 13)
    assert found["accuracy_interval"] == pytest.approx(wilson(right, 13))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["macro_f1_interval"][0] < found["macro_f1"] < found["macro_f1_interval"][1]
    plain = scipy.special.softmax(2.5 * np.log(probabilities), -1)
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, plain), rel=1e-4)
    columns = metrics.precision_recall_fscore_support(labels, predicted)
    for label, name in enumerate(found["classes"]):
        row = found["per_class"][name]
        measured = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert measured == pytest.approx([column[label] for column in columns])
        area = metrics.roc_auc_score(labels == label, probabilities[:, label])
        assert row["roc_area"] == pytest.approx(area)
        assert len(row["f1_interval"]) == 2
    assert found["confusion_matrix"] == metrics.confusion_matrix(labels, predicted).tolist()
    assert sum(pair["count"] for pair in found["most_confused"]) == 13 - right
    calibration = found["calibration"]
    assert calibration["temperature"] == 2.5
    assert set(calibration["bins_after"][0]) == {"low", "high", "images", "confidence", "accuracy"}
    assert found["rule"] == dataclasses.asdict(DecisionRule(2.5))
    names = ("decided", "operating", "operating_on_validation", "abstaining")
    assert [found[name] for name in names] == [None] * 4


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
    assert operating["found"] == (positive & (labels == 0)).sum()
    assert operating["false_alarms"] == (positive & (labels == 1)).sum()
    assert operating["found"] + operating["missed"] + operating["negatives"] == found["count"] == 39
    right = (np.where(positive, 0, 1) == labels).sum()
    assert right != (probabilities.argmax(-1) == labels).sum(), "else little is tested"
    decided = found["decided"]
    assert (decided["accuracy"], decided["sure"], decided["uncertain"]) == (right / 39, 39, 0)
    assert decided["accuracy_interval"] == pytest.approx(wilson(int(right), 39))
    out = call("evaluate", *flags)
    assert "validation split" not in out
    assert "blue is predicted from a probability of 0." in out
    assert f"found {operating['found']} of " in out
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


def test_model_with_non_finite_logits_is_refused(evaluate, run):
    arrays, values = best_model.load_best_model(run)
    arrays[-1][:] = np.nan
    write(run.best, checkpoints.pack({"model": arrays}, values))
    with pytest.raises(UserError, match="logits are NaN or infinite for 13 of 13 images; train"):
        evaluate(f"--run_dir={run.path}")


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


@pytest.fixture
def tested(coloured, tmp_path) -> RunDirectory:
    """A run whose data has a test split of 4 images."""
    rows = ["path,label,split"]
    for number in range(8):
        split = ("train", "validation", "test", "train")[number // 2]
        rows += [f"{name}/{number:02}.jpg,{name},{split}" for name in CLASSES]
    (coloured / "splits.csv").write_text("\n".join(rows))
    recipe = with_data(
        small_recipe(coloured), source="manifest", location=str(coloured / "splits.csv")
    )
    run = saved_run.save(tmp_path / "tested", classes=CLASSES, recipe=recipe)
    arrays, values = best_model.load_best_model(run)
    values["data"] = batches.ImageDataLoader(sources.load_examples(recipe.data), recipe, 1).identity
    write(run.best, checkpoints.pack({"model": arrays}, values))
    yield run
    (coloured / "splits.csv").unlink()


@pytest.mark.parametrize(
    ("flags", "split"),
    [((), "test"), (("--split=validation",), "validation"), (("--split=all",), "all")],
)
def test_test_split_is_evaluated_where_there_is_one(call, evaluate, tested, flags, split):
    found = evaluate(f"--run_dir={tested.path}", *flags)
    assert (found["split"], found["count"]) == (split, 16 if split == "all" else 4)
    first = call("evaluate", f"--run_dir={tested.path}", *flags).split("\n")[0]
    of = "" if split == "all" else f" of the {split} split"
    assert first.startswith(f"{found['count']} images{of}: accuracy ")


def test_compare_uses_test_splits_where_all_runs_have_one(evaluate, tested):
    rows = evaluate("--compare", tested.path, tested.path)
    assert [(row["split"], row["count"]) for row in rows] == [("test", 4)] * 2
    identities = [{"validation": "4 (1c)", "test": f"{count} (7e)"} for count in (4, 0)]
    assert EvaluationData().choose_split(identities) == "validation"


def test_threshold_is_fitted_on_validation_and_measured_on_test(evaluate, tested):
    flags = ("--positive_class=blue", "--min_recall=0.5")
    found = evaluate(f"--run_dir={tested.path}", *flags)
    assert (found["split"], found["count"]) == ("test", 4)
    fitted = found["operating_on_validation"]
    assert fitted["found"] + fitted["missed"] == 2
    assert fitted["recall"] >= 0.5


def correct_by_image(run: RunDirectory) -> dict[Path, bool]:
    """Which validation images the run predicts correctly, by where they really lie."""
    labels, probabilities = expected_predictions(run, "validation")
    paths = sources.load_examples(run.read_recipe().data).subset("validation").paths
    right = (probabilities.argmax(-1) == labels).tolist()
    return dict(zip((Path(path).resolve() for path in paths), right, strict=True))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["red/00.jpg"], 1),
        (["red/00.jpg", "red/01.jpg", "blue/", "unknown/"], 2),
        (["train/red/00.jpg", "val/red/00.jpg", "test/blue/00.jpg"], 3),
        (["test/red/00.jpg"], 1),
    ],
    ids=["one image", "empty classes", "one file in two splits", "test split alone"],
)
def test_other_data_is_evaluated_as_it_is(evaluate, run, coloured, tmp_path, names, count):
    for name in names:
        place = tmp_path / "data" / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            image = coloured / place.parent.name / place.name
            place.write_bytes(image.read_bytes() + b"not trained on")
    flags = (f"--run_dir={run.path}", f"--data_dir={tmp_path / 'data'}")
    assert evaluate(*flags)["count"] == count


def test_single_image_has_a_table_and_a_report(call, run, coloured, tmp_path):
    (tmp_path / "data" / "red").mkdir(parents=True)
    shutil.copy(coloured / "red" / "00.jpg", tmp_path / "data" / "red")
    flags = (f"--data_dir={tmp_path / 'data'}", f"--report={tmp_path / 'page'}")
    assert "accuracy" in call("evaluate", f"--run_dir={run.path}", *flags)
    assert (tmp_path / "page" / "report.html").is_file()


def test_compare_uses_the_images_that_both_runs_have(call, evaluate, models, coloured, tmp_path):
    """One names the folder by a link: images are known by where they really lie."""
    (tmp_path / "link").symlink_to(coloured)
    one, other = models["one"], models["other"]
    recipe = with_data(one.read_recipe(), location=str(tmp_path / "link"))
    recipe = dataclasses.replace(recipe, seed=1)
    linked = saved_run.save(tmp_path / "linked", classes=CLASSES, recipe=recipe)
    rows = evaluate("--compare", one.path, linked.path, other.path)
    assert call.said.err == ""
    assert [row["run_dir"] for row in rows] == [str(run.path) for run in (one, linked, other)]
    assert rows[0]["against_first"] is None
    first = correct_by_image(one)
    for row, run in zip(rows[1:], (linked, other), strict=True):
        found, second = row["against_first"], correct_by_image(run)
        pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
        only = [pairs.count((True, False)), pairs.count((False, True))]
        assert [found["only_a"], found["only_b"]] == only
        assert found["common"] == len(pairs)
        assert found["right_a"] == sum(a for a, _ in pairs)
        assert row["accuracy"] == np.mean(list(second.values()))
    assert rows[1]["against_first"]["common"] == 13 > rows[2]["against_first"]["common"] > 0


def test_compare_names_runs_without_a_common_image(evaluate, models, coloured, tmp_path):
    copied = shutil.copytree(coloured, tmp_path / "copied")
    one = models["one"]
    recipe = with_data(one.read_recipe(), location=str(copied))
    third = saved_run.save(tmp_path / "third", classes=CLASSES, recipe=recipe)
    message = f"{one.path} and {third.path} have no image in common (of 13 and 13)"
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate("--compare", one.path, third.path)


def test_compare_warns_of_images_that_runs_were_trained_on(call, models, coloured):
    one, other = (run.path for run in models.values())
    out = call("evaluate", "--compare", f"--data_dir={coloured}", one, other)
    header, row = out.splitlines()[:2]
    accuracy = re.search(r"\d+\.\d+%", row)
    assert header.index("accuracy") + len("accuracy") == accuracy.end(), "columns are aligned"
    for line, path in zip(call.said.err.splitlines(), (one, other), strict=True):
        assert line.startswith(f"{path} was trained on 39 of the 52 images")
    assert f"{other} against {one}" in out
    assert "of 52 images that both have" in out
    assert "McNemar" in out


@pytest.mark.parametrize("how", ["the folder itself", "copies under other names", "others"])
def test_evaluate_warns_of_images_that_the_run_was_trained_on(
    call, evaluate, models, coloured, tmp_path, how
):
    place, run = coloured, models["one"]
    if how != "the folder itself":
        place = tmp_path / "data"
        trained = sources.load_examples(run.read_recipe().data).subset("train")
        for number, (path, label) in enumerate(zip(trained.paths, trained.labels, strict=True)):
            (place / trained.classes[label]).mkdir(parents=True, exist_ok=True)
            behind = b"behind the end" if how == "others" else b""
            copy = place / trained.classes[label] / f"{number}.jpg"
            copy.write_bytes(Path(path).read_bytes() + behind)
    report = f"--report={tmp_path}/page"
    found = evaluate(f"--run_dir={run.path}", f"--data_dir={place}", report)
    count = 0 if how == "others" else 39
    assert found["trained_on"] == count
    assert call.said.err.count(f"{run.path} was trained on 39 of the ") == bool(count)
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count("It was trained on 39 of these images.") == bool(count)


def test_split_that_changed_since_training_is_warned_of(call, evaluate, coloured, tmp_path):
    """A new image moves another from what is trained on to what is validated on."""
    place = shutil.copytree(coloured, tmp_path / "data")
    recipe = small_recipe(place)
    run = saved_run.save(tmp_path / "run", classes=CLASSES, recipe=recipe)
    examples = sources.load_examples(recipe.data)
    arrays, values = best_model.load_best_model(run)
    values["data"] = batches.ImageDataLoader(examples, recipe, 1).identity
    write(run.best, checkpoints.pack({"model": arrays}, values))
    evaluate(f"--run_dir={run.path}")
    assert call.said.err == ""
    for number, path in enumerate(examples.paths[:4]):
        (place / "blue" / f"new {number}.jpg").write_bytes(Path(path).read_bytes() + b"anew")
    evaluate(f"--run_dir={run.path}")
    (line,) = call.said.err.splitlines()
    assert line.startswith(f"{place}: the validation split has changed since the run: 13 (")
    assert "images that it was trained on may be among them" in line


def test_missing_training_images_are_counted_as_unknown(evaluate, models, coloured, tmp_path):
    recipe = with_data(models["one"].read_recipe(), location=str(tmp_path / "gone"))
    run = saved_run.save(tmp_path / "run", classes=CLASSES, recipe=recipe)
    assert evaluate(f"--run_dir={run.path}", f"--data_dir={coloured}")["trained_on"] == 0


def test_compare_refuses_runs_of_other_classes(call, models, tmp_path):
    recipe = models["one"].read_recipe()
    other = saved_run.save(tmp_path / "run", classes=("blue", "green"), recipe=recipe)
    with pytest.raises(UserError, match="different classes: blue, red and blue, green"):
        call("evaluate", "--compare", models["one"].path, other.path)
