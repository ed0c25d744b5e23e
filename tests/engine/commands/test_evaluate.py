"""bin/evaluate: every figure, rules that are saved and taken off, runs side by side."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from engine.cli.flags import FlagError
from engine.core.errors import UserError
from engine.core.files import write
from engine.core.recipe import Recipe, to_json
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.intervals import wilson
from engine.inference import gradcam
from engine.loggers import plots
from engine.models import classifier
from engine.runs import best_model, checkpoints, load
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup
from pipelines.decode.decode import decode
from pipelines.loading import batches
from pipelines.sources import sources
from tests.bin.programs import program, start
from tests.engine import small
from tests.engine.small_runs import small_recipe


def make(
    place: Path, recipe: Recipe, seed: int = 0, classes=("blue", "red"), rule=None
) -> RunDirectory:
    """A finished run, its head drawn at random: right about as often as wrong."""
    run = RunDirectory(place)
    run.path.mkdir()
    made = classifier.build(recipe, len(classes))
    small.enliven(made.model)
    random = np.random.default_rng(seed)
    for variable in made.head.weights:
        variable.assign(random.normal(0, 0.05, variable.shape))
    values = {"classes": list(classes), **({"rule": dataclasses.asdict(rule)} if rule else {})}
    write(run.recipe, to_json(recipe).encode())
    write(run.best, checkpoints.pack({"model": made.model.get_weights()}, values))
    write(run.result, b'{"status": "finished"}')
    return run


@pytest.fixture(scope="module")
def models(coloured, tmp_path_factory) -> dict[str, RunDirectory]:
    place = tmp_path_factory.mktemp("models")
    recipe = small_recipe(coloured)
    other = dataclasses.replace(recipe.data, split_seed=3)
    return {
        "one": make(place / "one", recipe, rule=DecisionRule(2.5)),
        "other": make(place / "other", dataclasses.replace(recipe, data=other), seed=1),
    }


@pytest.fixture
def run(models, tmp_path) -> RunDirectory:
    """One that may be changed."""
    for name in ("recipe.json", "best.npz", "result.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes((models["one"].path / name).read_bytes())
    return RunDirectory(tmp_path / "run")


def evaluate(call, *arguments):
    return json.loads(call("evaluate", "--format=json", "--cache_dir=none", *arguments))


def known(run: RunDirectory, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a part of the run's data, image by image."""
    opened = load.load_run(run)
    examples = sources.load_examples(opened.recipe.data)
    examples = examples if part == "all" else examples.subset(part)
    images = [decode(Path(p).read_bytes(), *opened.recipe.image_size) for p in examples.paths]
    logits = opened.model(np.stack(images).astype(np.float32), training=False)
    scaled = np.asarray(logits, float) / opened.rule.temperature
    return examples.labels, scipy.special.softmax(scaled, -1)


def test_all_figures_of_the_validation_part(call, models):
    labels, chances = known(models["one"], "validation")
    found = evaluate(call, f"--run_dir={models['one'].path}")
    predicted = chances.argmax(-1)
    right = int((predicted == labels).sum())
    assert 0 < right < 13 == found["count"], "else little is tested"
    assert found["accuracy"] == right / 13
    assert found["accuracy_interval"] == pytest.approx(wilson(right, 13))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["macro_f1_interval"][0] < found["macro_f1"] < found["macro_f1_interval"][1]
    plain = scipy.special.softmax(2.5 * np.log(chances), -1)
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, plain), rel=1e-4)
    columns = metrics.precision_recall_fscore_support(labels, predicted)
    for label, name in enumerate(found["classes"]):
        row = found["per_class"][name]
        expected = [column[label] for column in columns]
        measured = [row[key] for key in ("precision", "recall", "f1", "support")]
        assert measured == pytest.approx(expected)
        area = metrics.roc_auc_score(labels == label, chances[:, label])
        assert row["roc_area"] == pytest.approx(area)
        assert len(row["f1_interval"]) == 2
    wrong = metrics.confusion_matrix(labels, predicted)
    assert found["confusion_matrix"] == wrong.tolist()
    assert sum(pair["count"] for pair in found["most_confused"]) == 13 - right
    made = found["calibration"]
    assert made["temperature"] == 2.5
    assert set(made["bins_after"][0]) == {"low", "high", "images", "confidence", "accuracy"}
    assert found["rule"] == dataclasses.asdict(DecisionRule(2.5))
    names = ("decided", "operating", "operating_on_validation", "abstaining")
    assert [found[name] for name in names] == [None] * 4


def test_a_threshold_is_fitted_on_the_validation_part_and_stays(call, run):
    labels, chances = known(run, "validation")
    flags = (f"--run_dir={run.path}", "--split=train")
    found = evaluate(call, *flags, "--positive_class=blue", "--min_recall=0.8")
    assert f"saved with the model, {run.best}" in call.said.err
    own = np.sort(chances[labels == 0, 0])[::-1]
    expected = own[int(np.ceil(0.8 * len(own))) - 1]
    rule = best_model.decision_rule_of(run, best_model.load_best_model(run)[1])
    assert rule == DecisionRule(2.5, "blue", rule.threshold, 0.8)
    assert rule.threshold == pytest.approx(expected, abs=1e-4)
    assert found["rule"] == dataclasses.asdict(rule)
    assert found["operating_on_validation"]["recall"] >= 0.8
    labels, chances = known(run, "train")
    taken = chances[:, 0] >= rule.threshold
    operating = found["operating"]
    assert operating["found"] == (taken & (labels == 0)).sum()
    assert operating["false_alarms"] == (taken & (labels == 1)).sum()
    assert operating["found"] + operating["missed"] + operating["negatives"] == found["count"] == 39
    right = (np.where(taken, 0, 1) == labels).sum()
    assert right != (chances.argmax(-1) == labels).sum(), "else little is tested"
    decided = found["decided"]
    assert (decided["accuracy"], decided["sure"], decided["uncertain"]) == (right / 39, 39, 0)
    assert decided["accuracy_interval"] == pytest.approx(wilson(int(right), 39))
    out = call("evaluate", *flags, "--cache_dir=none")
    assert "validation part" not in out
    assert "blue is the answer from a probability of 0." in out
    assert f"found {operating['found']} of " in out
    assert f"false alarms: {operating['false_alarms']} of {operating['negatives']} others" in out


@pytest.mark.parametrize("abstain", [None, 0.7, 1.0])
def test_the_table_says_how_right_the_rules_own_answers_are(call, run, abstain):
    plain = call("evaluate", f"--run_dir={run.path}", "--cache_dir=none")
    assert plain.startswith("13 images: accuracy ")
    assert "rule" not in plain
    labels, chances = known(run, "validation")
    level = abstain and (1.0 if abstain == 1 else float(np.quantile(chances.max(-1), abstain)))
    rule = DecisionRule(2.5, "blue", float(np.quantile(chances[:, 0], 0.1)) + 1e-4, 0.9, level)
    best_model.save_decision_rule(run, rule)
    decided = decision_rule.decide(rule, ("blue", "red"), chances)
    sure, right = int((decided >= 0).sum()), int((decided == labels).sum())
    assert right != (chances.argmax(-1) == labels).sum(), "else little is tested"
    first, _, by_rule = call("evaluate", f"--run_dir={run.path}", "--cache_dir=none").split("\n")[
        :3
    ]
    assert first.startswith("13 images, by the likeliest class: accuracy ")
    if abstain == 1:
        assert by_rule == "by the saved rule: no answer, all are uncertain"
        return
    assert by_rule.startswith(f"by the saved rule: accuracy {right / sure:.2%} (95%: ")
    of = f" of the {sure} images that are not uncertain"
    assert by_rule.endswith(of) == (abstain is not None)


def test_abstaining_is_added_and_all_is_taken_off_again(call, run):
    best_model.save_decision_rule(run, DecisionRule(2.5, "blue", 0.4, 0.9))
    _, chances = known(run, "validation")
    level = float(np.median(chances.max(-1)))
    found = evaluate(call, f"--run_dir={run.path}", f"--abstain={level}")
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) == DecisionRule(
        2.5, "blue", 0.4, 0.9, level
    )
    uncertain = int((chances.max(-1) < level).sum())
    assert found["abstaining"]["uncertain"] == pytest.approx(uncertain, abs=1)
    assert found["operating"]["threshold"] == 0.4
    out = call("evaluate", f"--run_dir={run.path}", "--cache_dir=none")
    assert "before any is left uncertain" in out
    assert f"uncertain where no class has {level:.1%}: " in out
    found = evaluate(call, f"--run_dir={run.path}", "--abstain=0")
    assert f"saved with the model, {run.best}" in call.said.err
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) == DecisionRule(
        2.5, "blue", 0.4, 0.9
    )
    assert (found["abstaining"], found["decided"]["uncertain"]) == (None, 0)
    arrays = best_model.load_best_model(run)[0]
    out = call("evaluate", f"--run_dir={run.path}", "--cache_dir=none", "--plain")
    assert "uncertain" not in out
    assert "the answer from" not in out
    kept, values = best_model.load_best_model(run)
    assert best_model.decision_rule_of(run, values) == DecisionRule(2.5)
    assert all(np.array_equal(*pair) for pair in zip(arrays, kept, strict=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--positive_class=blue", "--positive_class and --min_recall go together"),
        ("--min_recall=0.9", "--positive_class and --min_recall go together"),
        ("--positive_class=blue --min_recall=0", "--min_recall=0 would find nothing"),
        ("--positive_class=blue --min_recall=1.1", "min_recall=1.1; allowed: 0 to 1"),
        ("--positive_class=blue --min_recall=nan", "allowed: a number"),
        ("--abstain=1.5", "abstain=1.5; allowed: 0 to 1"),
        ("--abstain=most", "allowed: a number"),
        ("--plain --abstain=0", "--plain and --abstain; allowed: one of them"),
        ("--plain --positive_class=a --min_recall=1", "--plain and --positive_class"),
        ("--split_seed=3", "--split_seed goes with other data"),
        ("another", "'another' is no flag; runs follow --compare"),
        ("--compare another", "--run_dir has no use with --compare"),
        ("--price_per_hour=0", "--price_per_hour has no use without --report; give --report=DIR"),
    ],
)
def test_flags_that_do_not_fit_are_told_before_anything_starts(monkeypatch, models, flags, message):
    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    place = models["one"].path
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(FlagError, match=message):
        program("evaluate").main(["bin/evaluate", f"--run_dir={place}", *flags.split()])
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_a_report_takes_the_place_of_nothing_else(monkeypatch, run, tmp_path):
    """Said before anything starts, and before a rule is saved."""
    monkeypatch.setattr(tensorflow_setup, "start_tensorflow", None)
    (tmp_path / "report.html").write_text("the doctor's")
    before = run.best.read_bytes()
    flags = (f"--run_dir={run.path}", "--abstain=0.5", f"--report={tmp_path}")
    with pytest.raises(UserError, match=r"holds a report\.html that is of no such report"):
        program("evaluate").main(["bin/evaluate", *flags])
    assert run.best.read_bytes() == before
    assert (tmp_path / "report.html").read_text() == "the doctor's"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--run_dir is missing"),
        ("--compare", "--compare takes two runs or more"),
        ("--compare runs/a", "--compare takes two runs or more"),
        ("--compare runs/a runs/b --abstain=0", "--abstain has no use with --compare"),
        ("--compare a b --price_per_hour=0", "--price_per_hour has no use with --compare"),
    ],
)
def test_runs_that_are_missing(flags, message):
    with pytest.raises(FlagError, match=message):
        program("evaluate").main(["bin/evaluate", *flags.split()])


def test_no_run_is_made_where_none_is(call, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        call("evaluate", f"--run_dir={tmp_path / 'none'}", "--plain")
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_at_work_is_measured_and_not_changed(call, run):
    before = run.best.read_bytes()
    with RunLock(RunDirectory(run.path)):
        with pytest.raises(UserError, match=r"locked by process \d+ on .+; wait"):
            call("evaluate", f"--run_dir={run.path}", "--abstain=0.5", "--cache_dir=none")
        assert run.best.read_bytes() == before
        assert evaluate(call, f"--run_dir={run.path}")["count"] == 13


def test_a_class_that_the_model_does_not_know(call, run):
    before = run.best.read_bytes()
    flags = (f"--run_dir={run.path}", "--positive_class=bleu", "--min_recall=1")
    with pytest.raises(UserError, match=r"'bleu' does not exist \(did you mean 'blue'\?\)"):
        call("evaluate", *flags)
    assert run.best.read_bytes() == before


def test_a_run_that_is_not_finished_is_changed_with_a_warning(call, run):
    run.result.unlink()
    evaluate(call, f"--run_dir={run.path}", "--abstain=0.5")
    assert "not finished: where it is gone on with, it takes this off again" in call.said.err


def test_a_model_that_gives_no_numbers_is_one_line(call, run):
    arrays, values = best_model.load_best_model(run)
    arrays[-1][:] = np.nan
    write(run.best, checkpoints.pack({"model": arrays}, values))
    with pytest.raises(UserError, match="logits are NaN or infinite for 13 of 13 images; train"):
        evaluate(call, f"--run_dir={run.path}")


def test_a_part_without_the_positive_class(call, run, coloured, tmp_path):
    best_model.save_decision_rule(run, DecisionRule(2.5, "blue", 0.4, 0.9))
    rows = ["path,label,split"]
    for number in range(4):
        rows.append(f"{coloured}/blue/{number:02}.jpg,blue,train")
        rows.append(f"{coloured}/red/{number:02}.jpg,red,{'test' if number else 'train'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    data = (f"--manifest={tmp_path / 'list.csv'}", f"--manifest_root={coloured}", "--split=test")
    flags = (f"--run_dir={run.path}", "--validation_fraction=2", *data)
    found = evaluate(call, *flags)
    assert found["per_class"]["blue"]["roc_area"] is None
    assert found["operating"]["negatives"] == found["count"] == 3
    assert "none is of the class; false alarms: " in call("evaluate", *flags, "--cache_dir=none")


def test_runs_side_by_side_on_the_images_that_both_have(call, models, coloured, tmp_path):
    """One is asked by way of a link to the folder: images are known by where they really lie."""
    (tmp_path / "link").symlink_to(coloured)
    one, other = models["one"], models["other"]
    spec = dataclasses.replace(one.read_recipe().data, location=str(tmp_path / "link"))
    linked = make(tmp_path / "linked", dataclasses.replace(one.read_recipe(), data=spec), seed=1)
    rows = evaluate(call, "--compare", one.path, linked.path, other.path)
    assert call.said.err == ""
    assert [row["run_dir"] for row in rows] == [str(r.path) for r in (one, linked, other)]
    assert rows[0]["against_first"] is None
    sides = {}
    for run in (one, linked, other):
        labels, chances = known(run, "validation")
        names = map(Path, sources.load_examples(run.read_recipe().data).subset("validation").paths)
        right = chances.argmax(-1) == labels
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


def test_two_of_three_runs_with_no_image_in_common_are_named(call, models, coloured, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(coloured, copied)
    one, other = models["one"], models["other"]
    spec = dataclasses.replace(one.read_recipe().data, location=str(copied))
    third = make(tmp_path / "third", dataclasses.replace(one.read_recipe(), data=spec))
    with pytest.raises(UserError) as raised:
        evaluate(call, "--compare", one.path, other.path, third.path)
    message = f"{one.path} and {third.path} have no image in common (of 13 and 13)"
    assert str(raised.value).startswith(message)


def test_images_that_a_run_was_trained_on_are_told(call, models, coloured):
    flags = ("--cache_dir=none", f"--data_dir={coloured}")
    out = call("evaluate", "--compare", *flags, *(run.path for run in models.values()))
    lines = call.said.err.splitlines()
    assert len(lines) == 2
    for line, run in zip(lines, models.values(), strict=True):
        assert line.startswith(f"{run.path} was trained on 39 of the 52 images")
    assert f"{models['other'].path} against {models['one'].path}" in out
    assert "of 52 images that both have" in out
    assert "McNemar" in out


@pytest.mark.parametrize("how", ["the folder itself", "copies under other names", "others"])
def test_images_that_the_one_run_was_trained_on_are_told_too(call, models, coloured, tmp_path, how):
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
    found = evaluate(call, *flags)
    assert found["trained_on"] == (0 if how == "others" else 39)
    lines = [line for line in call.said.err.splitlines() if "was trained on" in line]
    page = (tmp_path / "page" / "report.html").read_text()
    said = [f"{models['one'].path} was trained on 39 of"] if how != "others" else []
    assert [line.partition(" the ")[0] for line in lines] == said
    assert page.count("It was trained on 39 of these.") == len(said)


def test_a_part_that_has_changed_since_the_run_is_told(call, coloured, tmp_path):
    """A new image moves another from what is trained on to what is validated on."""
    place = tmp_path / "data"
    shutil.copytree(coloured, place)
    recipe = small_recipe(place)
    run = make(tmp_path / "run", recipe)
    examples = sources.load_examples(recipe.data)
    arrays, values = best_model.load_best_model(run)
    values["data"] = batches.ImageDataLoader(examples, recipe, 1).identity
    write(run.best, checkpoints.pack({"model": arrays}, values))
    evaluate(call, f"--run_dir={run.path}")
    assert call.said.err == ""
    for number, path in enumerate(examples.paths[:4]):
        (place / "blue" / f"new {number}.jpg").write_bytes(Path(path).read_bytes() + b"anew")
    evaluate(call, f"--run_dir={run.path}")
    (line,) = call.said.err.splitlines()
    assert line.startswith(f"{place}: the validation part has changed since the run: 13 (")
    assert "images that it was trained on may be among them" in line


def test_where_those_are_gone_nothing_can_be_told(call, models, coloured, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(coloured, copied)
    recipe = models["one"].read_recipe()
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, location=str(copied))
    )
    run = make(tmp_path / "run", recipe)
    shutil.rmtree(copied)
    assert evaluate(call, f"--run_dir={run.path}", f"--data_dir={coloured}")["trained_on"] == 0


def test_runs_of_other_classes_are_refused_before_anything_is_measured(call, models, tmp_path):
    other = make(tmp_path / "run", models["one"].read_recipe(), classes=("blue", "green"))
    with pytest.raises(UserError, match="other classes: blue, red and blue, green"):
        call("evaluate", "--compare", models["one"].path, other.path)


def test_predict_shows_what_the_rule_makes_of_it(call, run, coloured):
    files = sorted((coloured / "red").iterdir())[:8]
    labels = ("blue", "red")
    flags = (f"--run_dir={run.path}", *files)
    answers = json.loads(call("predict", "--format=json", *flags))
    assert all("decision" not in row for row in answers)
    blue = [{p["label"]: p["probability"] for p in row["predictions"]}["blue"] for row in answers]
    chances = np.stack([blue, 1 - np.array(blue)], -1)
    threshold, level = sorted(blue)[3] - 1e-6, sorted(chances.max(-1))[4] - 1e-6
    rule = DecisionRule(2.5, "blue", threshold, 0.9, level)
    best_model.save_decision_rule(run, rule)
    expected = [None if n < 0 else labels[n] for n in decision_rule.decide(rule, labels, chances)]
    assert expected.count(None) == 4
    rows = json.loads(call("predict", "--format=json", *flags))
    assert [row["decision"] for row in rows] == expected
    table = call("predict", *flags).splitlines()
    decisions = [line.strip() for line in table if "->" in line]
    assert decisions == [f"-> {name or 'uncertain'}" for name in expected]
    lines = list(csv.DictReader(call("predict", "--format=csv", *flags).splitlines()))
    assert [line["decision"] for line in lines[::2]] == [name or "uncertain" for name in expected]
    assert lines[0].keys() == {"path", "rank", "label", "probability", "decision"}


def test_a_plot_shows_and_explains_what_the_rule_makes_of_it(
    call, run, coloured, tmp_path, monkeypatch
):
    """Where it leaves an image uncertain, what speaks for the likeliest class."""
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes((coloured / "red" / "00.jpg").read_bytes())
    files = [odd, *sorted((coloured / "red").iterdir())[1:8]]
    flags = (
        f"--run_dir={run.path}",
        "--top_k=1",
        f"--plot={tmp_path / 'a.png'}",
        "--explain",
        *files,
    )
    drawn, draw = [], plots.predictions
    monkeypatch.setattr(plots, "predictions", lambda items: drawn.append(items) or draw(items))
    call("predict", *flags)
    assert [shown.decision for shown in drawn[0]] == [None] * 8
    assert [shown.evidence[1] for shown in drawn[0]] == [shown.labels[0][0] for shown in drawn[0]]
    likeliest = [{"blue": 0, "red": 1}[shown.labels[0][0]] for shown in drawn[0]]
    sure = [shown.labels[0][1] for shown in drawn[0]]
    rule = DecisionRule(2.5, "blue", 0.0, 0.9, sorted(sure)[4] - 1e-6)
    best_model.save_decision_rule(run, rule)
    call("predict", *flags)
    decided = ["uncertain" if share < rule.abstain else "blue" for share in sure]
    assert [shown.decision for shown in drawn[1]] == decided
    asked = [0 if name == "blue" else n for name, n in zip(decided, likeliest, strict=True)]
    assert asked != likeliest, "else little is tested"
    assert [shown.evidence[1] for shown in drawn[1]] == [("blue", "red")[n] for n in asked]
    images = np.stack([shown.image for shown in drawn[1]])
    heats = gradcam.make(load.load_run(run).classifier)(images, asked)
    for shown, heat in zip(drawn[1], heats, strict=True):
        np.testing.assert_allclose(shown.evidence[0], gradcam.overlay(shown.image, heat), atol=2)
    assert drawn[1][0].title.endswith(r"caf\xe9.jpg")


def test_as_a_person_starts_it(run):
    process = start("evaluate", f"--run_dir={run.path}", "--abstain=0.6", "--cache_dir=none")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err == f"saved with the model, {run.best}: bin/predict answers so from now on\n"
    assert out.startswith("13 images, by the likeliest class: accuracy ")
    assert "(95%: " in out.splitlines()[0]
    assert "uncertain where no class has 60.0%: " in out
    assert best_model.decision_rule_of(run, best_model.load_best_model(run)[1]) != DEFAULT_RULE
