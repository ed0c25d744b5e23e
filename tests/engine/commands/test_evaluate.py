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

from engine.cli import evaluate as cli_evaluate
from engine.cli.command_line import FlagError
from engine.core.errors import UserError
from engine.core.files import write
from engine.core.recipe import Recipe, to_json
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.intervals import wilson
from engine.models import classifier
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup
from pipelines.decode.decode import decode
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import small
from tests.engine.small_runs import small_recipe


def save_run(
    place: Path, recipe: Recipe, seed: int = 0, classes=("blue", "red"), rule=None
) -> RunDirectory:
    """A finished run, its head drawn at random: right about as often as wrong."""
    run = RunDirectory(place)
    run.path.mkdir()
    network = classifier.build(recipe, len(classes))
    small.enliven(network.model)
    random = np.random.default_rng(seed)
    for variable in network.head.weights:
        variable.assign(random.normal(0, 0.05, variable.shape))
    values = {"classes": list(classes), **({"rule": dataclasses.asdict(rule)} if rule else {})}
    write(run.recipe, to_json(recipe).encode())
    write(run.best, checkpoints.pack({"model": network.model.get_weights()}, values))
    write(run.result, b'{"status": "finished"}')
    return run


@pytest.fixture(scope="module")
def models(coloured, tmp_path_factory) -> dict[str, RunDirectory]:
    folder = tmp_path_factory.mktemp("models")
    recipe = small_recipe(coloured)
    other = dataclasses.replace(recipe.data, split_seed=3)
    return {
        "one": save_run(folder / "one", recipe, rule=DecisionRule(2.5)),
        "other": save_run(folder / "other", dataclasses.replace(recipe, data=other), seed=1),
    }


@pytest.fixture
def run(models, tmp_path) -> RunDirectory:
    """One that may be changed."""
    for name in ("recipe.json", "best.npz", "result.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes((models["one"].path / name).read_bytes())
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def table(call, pixel_cache):
    """What bin/evaluate prints."""
    return lambda *flags: call("evaluate", f"--cache_dir={pixel_cache}", *flags)


@pytest.fixture
def evaluate(table):
    """What bin/evaluate prints as JSON."""
    return lambda *flags: json.loads(table("--format=json", *flags))


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
    assert found["accuracy"] == right / 13
    assert found["accuracy_interval"] == pytest.approx(wilson(right, 13))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["macro_f1_interval"][0] < found["macro_f1"] < found["macro_f1_interval"][1]
    plain = scipy.special.softmax(2.5 * np.log(probabilities), -1)
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, plain), rel=1e-4)
    columns = metrics.precision_recall_fscore_support(labels, predicted)
    for label, name in enumerate(found["classes"]):
        row = found["per_class"][name]
        expected = [column[label] for column in columns]
        measured = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert measured == pytest.approx(expected)
        area = metrics.roc_auc_score(labels == label, probabilities[:, label])
        assert row["roc_area"] == pytest.approx(area)
        assert len(row["f1_interval"]) == 2
    wrong = metrics.confusion_matrix(labels, predicted)
    assert found["confusion_matrix"] == wrong.tolist()
    assert sum(pair["count"] for pair in found["most_confused"]) == 13 - right
    calibration = found["calibration"]
    assert calibration["temperature"] == 2.5
    assert set(calibration["bins_after"][0]) == {"low", "high", "images", "confidence", "accuracy"}
    assert found["rule"] == dataclasses.asdict(DecisionRule(2.5))
    names = ("decided", "operating", "operating_on_validation", "abstaining")
    assert [found[name] for name in names] == [None] * 4


def test_min_recall_saves_threshold_fitted_on_validation_split(call, table, evaluate, run):
    labels, probabilities = expected_predictions(run, "validation")
    flags = (f"--run_dir={run.path}", "--split=train")
    found = evaluate(*flags, "--positive_class=blue", "--min_recall=0.8")
    assert f"saved with the model, {run.best}" in call.said.err
    own = np.sort(probabilities[labels == 0, 0])[::-1]
    expected = own[int(np.ceil(0.8 * len(own))) - 1]
    rule = best_model.decision_rule_of(run, best_model.load_best_model(run)[1])
    assert rule == DecisionRule(2.5, "blue", rule.threshold, 0.8)
    assert rule.threshold == pytest.approx(expected, abs=1e-4)
    assert found["rule"] == dataclasses.asdict(rule)
    assert found["operating_on_validation"]["recall"] >= 0.8
    labels, probabilities = expected_predictions(run, "train")
    taken = probabilities[:, 0] >= rule.threshold
    operating = found["operating"]
    assert operating["found"] == (taken & (labels == 0)).sum()
    assert operating["false_alarms"] == (taken & (labels == 1)).sum()
    assert operating["found"] + operating["missed"] + operating["negatives"] == found["count"] == 39
    right = (np.where(taken, 0, 1) == labels).sum()
    assert right != (probabilities.argmax(-1) == labels).sum(), "else little is tested"
    decided = found["decided"]
    assert (decided["accuracy"], decided["sure"], decided["uncertain"]) == (right / 39, 39, 0)
    assert decided["accuracy_interval"] == pytest.approx(wilson(int(right), 39))
    out = table(*flags)
    assert "validation split" not in out
    assert "blue is predicted from a probability of 0." in out
    assert f"found {operating['found']} of " in out
    assert f"false alarms: {operating['false_alarms']} of {operating['negatives']} others" in out


@pytest.mark.parametrize("abstain", [None, 0.7, 1.0])
def test_table_has_accuracy_of_rule_decisions(table, run, abstain):
    plain = table(f"--run_dir={run.path}")
    assert plain.startswith("13 images: accuracy ")
    assert "rule" not in plain
    labels, probabilities = expected_predictions(run, "validation")
    level = abstain and (
        1.0 if abstain == 1 else float(np.quantile(probabilities.max(-1), abstain))
    )
    rule = DecisionRule(
        2.5, "blue", float(np.quantile(probabilities[:, 0], 0.1)) + 1e-4, 0.9, level
    )
    best_model.save_decision_rule(run, rule)
    decided = decision_rule.decide(rule, ("blue", "red"), probabilities)
    sure, right = int((decided >= 0).sum()), int((decided == labels).sum())
    assert right != (probabilities.argmax(-1) == labels).sum(), "else little is tested"
    first, _, by_rule = table(f"--run_dir={run.path}").split("\n")[:3]
    assert first.startswith("13 images, by the likeliest class: accuracy ")
    if abstain == 1:
        assert by_rule == "by the saved rule: no prediction, all are uncertain"
        return
    assert by_rule.startswith(f"by the saved rule: accuracy {right / sure:.2%} (95%: ")
    of = f" of the {sure} images that are not uncertain"
    assert by_rule.endswith(of) == (abstain is not None)


def test_abstain_extends_rule_and_plain_removes_it(call, table, evaluate, run):
    best_model.save_decision_rule(run, DecisionRule(2.5, "blue", 0.4, 0.9))
    _, probabilities = expected_predictions(run, "validation")
    level = float(np.median(probabilities.max(-1)))
    found = evaluate(f"--run_dir={run.path}", f"--abstain={level}")
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) == DecisionRule(
        2.5, "blue", 0.4, 0.9, level
    )
    uncertain = int((probabilities.max(-1) < level).sum())
    assert found["abstaining"]["uncertain"] == pytest.approx(uncertain, abs=1)
    assert found["operating"]["threshold"] == 0.4
    out = table(f"--run_dir={run.path}")
    assert "before abstaining" in out
    assert f"uncertain where no class reaches {level:.1%}: " in out
    found = evaluate(f"--run_dir={run.path}", "--abstain=0")
    assert f"saved with the model, {run.best}" in call.said.err
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) == DecisionRule(
        2.5, "blue", 0.4, 0.9
    )
    assert (found["abstaining"], found["decided"]["uncertain"]) == (None, 0)
    arrays = best_model.load_best_model(run)[0]
    out = table(f"--run_dir={run.path}", "--plain")
    assert "uncertain" not in out
    assert "is predicted from" not in out
    kept, values = best_model.load_best_model(run)
    assert best_model.decision_rule_of(run, values) == DecisionRule(2.5)
    assert all(np.array_equal(*pair) for pair in zip(arrays, kept, strict=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--run_dir is missing"),
        ("--compare", "--compare takes two runs or more"),
        ("--compare runs/a", "--compare takes two runs or more"),
        ("--compare runs/a runs/b --abstain=0", "--abstain has no use with --compare"),
        ("--compare a b --price_per_hour=0", "--price_per_hour has no use with --compare"),
        ("RUN --positive_class=blue", "--positive_class and --min_recall go together"),
        ("RUN --min_recall=0.9", "--positive_class and --min_recall go together"),
        (
            "RUN --positive_class=blue --min_recall=0",
            "--min_recall=0: '0'; allowed: a number, above 0, up to 1",
        ),
        ("RUN --positive_class=blue --min_recall=1.1", "allowed: a number, above 0, up to 1"),
        ("RUN --positive_class=blue --min_recall=nan", "allowed: a number"),
        ("RUN --abstain=1.5", "allowed: a number, 0 to 1"),
        ("RUN --abstain=most", "allowed: a number"),
        ("RUN --plain --abstain=0", "--plain and --abstain; allowed: one of them"),
        ("RUN --plain --positive_class=a --min_recall=1", "--plain and --positive_class"),
        ("RUN --split_seed=3", "--split_seed requires other data"),
        ("RUN another", "'another' is no flag; runs follow --compare"),
        ("RUN --compare another", "--run_dir has no use with --compare"),
        (
            "RUN --price_per_hour=0",
            "--price_per_hour has no use without --report; give --report=DIR",
        ),
    ],
)
def test_conflicting_flags_are_refused_before_tensorflow_starts(
    monkeypatch, models, flags, message
):
    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    before = {path.name: path.read_bytes() for path in models["one"].path.iterdir()}
    words = flags.replace("RUN", f"--run_dir={models['one'].path}").split()
    with pytest.raises(FlagError, match=message):
        cli_evaluate.main(["bin/evaluate", *words])
    assert {path.name: path.read_bytes() for path in models["one"].path.iterdir()} == before


def test_report_over_foreign_file_is_refused_before_saving_the_rule(monkeypatch, run, tmp_path):
    """Said before anything starts, and before a rule is saved."""
    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    (tmp_path / "report.html").write_text("the doctor's")
    before = run.best.read_bytes()
    flags = (f"--run_dir={run.path}", "--abstain=0.5", f"--report={tmp_path}")
    with pytest.raises(UserError, match=r"holds a report\.html that is not from a report"):
        cli_evaluate.main(["bin/evaluate", *flags])
    assert run.best.read_bytes() == before
    assert (tmp_path / "report.html").read_text() == "the doctor's"


def test_missing_run_is_refused_and_not_created(table, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        table(f"--run_dir={tmp_path / 'none'}", "--plain")
    assert not list(tmp_path.iterdir())


def test_locked_run_is_evaluated_but_not_changed(table, evaluate, run):
    before = run.best.read_bytes()
    with RunLock(RunDirectory(run.path)):
        with pytest.raises(UserError, match=r"locked by process \d+ on .+; wait"):
            table(f"--run_dir={run.path}", "--abstain=0.5")
        assert run.best.read_bytes() == before
        assert evaluate(f"--run_dir={run.path}")["count"] == 13


def test_unknown_positive_class_is_refused(table, run):
    before = run.best.read_bytes()
    flags = (f"--run_dir={run.path}", "--positive_class=bleu", "--min_recall=1")
    with pytest.raises(UserError, match=r"'bleu' does not exist \(did you mean 'blue'\?\)"):
        table(*flags)
    assert run.best.read_bytes() == before


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
    table, evaluate, run, coloured, tmp_path
):
    best_model.save_decision_rule(run, DecisionRule(2.5, "blue", 0.4, 0.9))
    rows = ["path,label,split"]
    for number in range(4):
        rows.append(f"{coloured}/blue/{number:02}.jpg,blue,train")
        rows.append(f"{coloured}/red/{number:02}.jpg,red,{'test' if number else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    data = (f"--manifest={tmp_path / 'list.csv'}", f"--manifest_root={coloured}", "--split=test")
    flags = (f"--run_dir={run.path}", "--validation_fraction=2", *data)
    found = evaluate(*flags)
    assert found["per_class"]["blue"]["roc_area"] is None
    assert found["operating"]["negatives"] == found["count"] == 3
    assert "none is of the class; false alarms: " in table(*flags)


def test_compare_uses_the_images_that_both_runs_have(call, evaluate, models, coloured, tmp_path):
    """One is asked by way of a link to the folder: images are known by where they really lie."""
    (tmp_path / "link").symlink_to(coloured)
    one, other = models["one"], models["other"]
    spec = dataclasses.replace(one.read_recipe().data, location=str(tmp_path / "link"))
    linked = save_run(
        tmp_path / "linked", dataclasses.replace(one.read_recipe(), data=spec), seed=1
    )
    rows = evaluate("--compare", one.path, linked.path, other.path)
    assert call.said.err == ""
    assert [row["run_dir"] for row in rows] == [str(r.path) for r in (one, linked, other)]
    assert rows[0]["against_first"] is None
    sides = {}
    for run in (one, linked, other):
        labels, probabilities = expected_predictions(run, "validation")
        names = map(Path, sources.load_examples(run.read_recipe().data).subset("validation").paths)
        right = probabilities.argmax(-1) == labels
        sides[run] = dict(zip((p.resolve() for p in names), right.tolist(), strict=True))
    for row, run in zip(rows[1:], (linked, other), strict=True):
        found = row["against_first"]
        both = sides[one].keys() & sides[run].keys()
        pairs = [(sides[one][name], sides[run][name]) for name in both]
        assert found["common"] == len(pairs)
        assert found["right_a"] == sum(a for a, _ in pairs)
        assert found["right_b"] == sum(b for _, b in pairs)
        only = [pairs.count((True, False)), pairs.count((False, True))]
        assert [found["only_a"], found["only_b"]] == only
        assert found["p_value"] == pytest.approx(scipy.stats.binomtest(only[0], sum(only)).pvalue)
        assert row["accuracy"] == np.mean(list(sides[run].values()))
    assert rows[1]["against_first"]["common"] == 13 > rows[2]["against_first"]["common"] > 0


def test_compare_names_runs_without_a_common_image(evaluate, models, coloured, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(coloured, copied)
    one, other = models["one"], models["other"]
    spec = dataclasses.replace(one.read_recipe().data, location=str(copied))
    third = save_run(tmp_path / "third", dataclasses.replace(one.read_recipe(), data=spec))
    with pytest.raises(UserError) as raised:
        evaluate("--compare", one.path, other.path, third.path)
    message = f"{one.path} and {third.path} have no image in common (of 13 and 13)"
    assert str(raised.value).startswith(message)


def test_compare_warns_of_images_that_runs_were_trained_on(call, table, models, coloured):
    data = f"--data_dir={coloured}"
    out = table("--compare", data, *(run.path for run in models.values()))
    header, row = out.splitlines()[:2]
    accuracy = re.search(r"\d+\.\d+%", row)
    assert header.index("accuracy") + len("accuracy") == accuracy.end(), "columns are aligned"
    lines = call.said.err.splitlines()
    assert len(lines) == 2
    for line, run in zip(lines, models.values(), strict=True):
        assert line.startswith(f"{run.path} was trained on 39 of the 52 images")
    assert f"{models['other'].path} against {models['one'].path}" in out
    assert "of 52 images that both have" in out
    assert "McNemar" in out


@pytest.mark.parametrize("how", ["the folder itself", "copies under other names", "others"])
def test_evaluate_warns_of_images_that_the_run_was_trained_on(
    call, evaluate, models, coloured, tmp_path, how
):
    place = coloured
    if how != "the folder itself":
        place = tmp_path / "data"
        trained = sources.load_examples(models["one"].read_recipe().data).subset("train")
        for number, (path, label) in enumerate(zip(trained.paths, trained.labels, strict=True)):
            (place / trained.classes[label]).mkdir(parents=True, exist_ok=True)
            behind = b"" if how != "others" else b"behind the end"
            copy = place / trained.classes[label] / f"{number}.jpg"
            copy.write_bytes(Path(path).read_bytes() + behind)
    flags = (f"--run_dir={models['one'].path}", f"--data_dir={place}", f"--report={tmp_path}/page")
    found = evaluate(*flags)
    assert found["trained_on"] == (0 if how == "others" else 39)
    lines = [line for line in call.said.err.splitlines() if "was trained on" in line]
    page = (tmp_path / "page" / "report.html").read_text()
    said = [f"{models['one'].path} was trained on 39 of"] if how != "others" else []
    assert [line.partition(" the ")[0] for line in lines] == said
    assert page.count("It was trained on 39 of these images.") == len(said)


def test_split_that_changed_since_training_is_warned_of(call, evaluate, coloured, tmp_path):
    """A new image moves another from what is trained on to what is validated on."""
    place = tmp_path / "data"
    shutil.copytree(coloured, place)
    recipe = small_recipe(place)
    run = save_run(tmp_path / "run", recipe)
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
    copied = tmp_path / "copied"
    shutil.copytree(coloured, copied)
    recipe = models["one"].read_recipe()
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, location=str(copied))
    )
    run = save_run(tmp_path / "run", recipe)
    shutil.rmtree(copied)
    assert evaluate(f"--run_dir={run.path}", f"--data_dir={coloured}")["trained_on"] == 0


def test_compare_refuses_runs_of_other_classes(table, models, tmp_path):
    other = save_run(tmp_path / "run", models["one"].read_recipe(), classes=("blue", "green"))
    with pytest.raises(UserError, match="different classes: blue, red and blue, green"):
        table("--compare", models["one"].path, other.path)
