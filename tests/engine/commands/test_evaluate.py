"""bin/evaluate: metrics, splits, and other data than the run's own."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from engine.core.digests import write
from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.intervals import wilson
from engine.runs import best_model, checkpoints
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import saved_run
from tests.engine.commands.evaluated import CLASSES, expected_predictions, with_data
from tests.engine.small_runs import small_recipe


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


def test_model_with_non_finite_logits_is_refused(evaluate, run):
    arrays, values = best_model.load_best_model(run)
    arrays[-1][:] = np.nan
    write(run.best, checkpoints.pack({"model": arrays}, values))
    with pytest.raises(UserError, match="logits are NaN or infinite for 13 of 13 images; train"):
        evaluate(f"--run_dir={run.path}")


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
