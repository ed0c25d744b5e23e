"""From answers to facts, on a network of a few hundred numbers."""

import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image

from engine.evaluation import decision_rule, eval_step, evaluate, label_errors
from engine.evaluation.decision_rule import DecisionRule
from engine.report import collect as gather
from engine.report import images
from engine.report.collect import MeasuredModel, ReportContext
from engine.runs.directory import RunDirectory
from tests.engine import small

TOLD = ReportContext("train", "the run's own", True, "2026-02-03T04:05:06+00:00", "bin/train", 2.0)
SIZE = 4  # of a batch


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> MeasuredModel:
    """All thirty images of a feed, and what a network with random weights says of them."""
    made, loader = small.network(), small.InMemoryDataLoader(count=30, size=SIZE)
    answers = evaluate.collect_predictions(
        eval_step.make_eval_step(made.model),
        loader.split_batches("train"),
        loader.classes,
        lambda n: f"/d/{n}.png",
    )
    return MeasuredModel(
        run=RunDirectory(tmp_path_factory.mktemp("run")),
        recipe=small.recipe(batch_size=SIZE, image_size=(small.SIDE, small.SIDE)),
        classifier=made,
        rule=DecisionRule(),
        answers=answers,
        once=functools.partial(loader.split_batches, "train"),
        fitted_on_these=False,
    )


def opened(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float)


def test_mistakes_come_with_their_own_images_the_surest_first(measured):
    facts = gather.collect_report(measured, TOLD)
    answers = measured.answers
    chances = np.exp(answers.logits) / np.exp(answers.logits).sum(1, keepdims=True)
    wrong = np.flatnonzero(answers.logits.argmax(1) != answers.labels)
    assert len(facts.mistakes) == len(wrong) > 5
    sureness = [one.probability for one in facts.mistakes]
    assert sureness == sorted(sureness, reverse=True)
    whole = np.concatenate([np.asarray(batch.inputs) for batch in measured.once()])
    for one in facts.mistakes[: gather.SHOWN]:
        number = int(one.name.split("/")[-1].split(".")[0])
        assert number in wrong
        assert one.given == answers.classes[answers.labels[number]]
        assert one.probability == pytest.approx(chances[number].max(), rel=1e-5)
        assert one.predicted == answers.classes[chances[number].argmax()]
        shown = opened(one.image)
        distances = [np.abs(shown - image).mean() for image in whole[:30]]
        assert int(np.argmin(distances)) == number
        assert opened(one.overlay).shape == shown.shape
    assert [bool(one.image) for one in facts.mistakes] == [
        place < gather.SHOWN for place in range(len(wrong))
    ]


def test_suspects_have_the_label_that_was_given(measured, monkeypatch):
    loader = small.InMemoryDataLoader(count=30, size=SIZE)
    labels = np.concatenate([np.asarray(batch.labels) for batch in loader.split_batches("train")])[
        :30
    ]
    order = np.random.default_rng(0).permutation(30).astype(np.int32)
    margin, suggested = np.where(np.arange(30) % 3 == 0, -0.5, 0.5), (labels + 1) % 3
    wrong = np.arange(30) % 6 == 0
    asked = []

    def check(recipe, given, trained, between):
        asked.append((given, trained, between))
        issues = label_errors.LabelIssues(order, suggested, wrong, margin)
        return label_errors.LabelCheck(issues, np.arange(30), 0.75, "a network")

    monkeypatch.setattr(label_errors, "check_labels", check)
    monkeypatch.setattr(gather, "SHOWN", 4)
    found = gather.collect_report(dataclasses.replace(measured, training=loader), TOLD).labels
    expected = [n for n in order.tolist() if n % 3 == 0]
    assert [one.name for one in found.suspects] == [str(n) for n in expected]
    assert [one.given for one in found.suspects] == [loader.classes[labels[n]] for n in expected]
    assert [one.suggested for one in found.suspects] == [
        loader.classes[(labels[n] + 1) % 3] for n in expected
    ]
    assert [one.likely for one in found.suspects] == [n % 6 == 0 for n in expected]
    assert [bool(one.image) for one in found.suspects] == [True] * 4 + [False] * 6
    assert (found.examined, found.accuracy, found.features_of) == (30, 0.75, "a network")
    assert asked[0][:2] == (loader, measured.classifier)


def test_without_data_of_the_run_no_label_is_looked_at(measured):
    assert gather.collect_report(measured, TOLD).labels is None


def test_what_the_rule_decides_is_told(measured):
    plain = gather.collect_report(measured, TOLD)
    assert plain.operating is None
    assert plain.decided is plain.abstaining is None
    rule = DecisionRule(1.0, "b", 0.3, 0.9, 0.34)
    found = gather.collect_report(dataclasses.replace(measured, rule=rule), TOLD)
    given = measured.answers.labels == 1
    assert found.operating.found + found.operating.missed == given.sum()
    chances = np.exp(measured.answers.logits)
    chances /= chances.sum(1, keepdims=True)
    assert found.operating.found == (chances[given, 1] >= 0.3).sum()
    assert found.abstaining.uncertain == (chances.max(1) < 0.34).sum()
    rule = dataclasses.replace(rule, abstain=None)
    found = gather.collect_report(dataclasses.replace(measured, rule=rule), TOLD)
    others = np.where(np.arange(chances.shape[1]) == 1, 0, chances).argmax(1)
    answers = np.where(chances[:, 1] >= 0.3, 1, others)
    assert found.decided.accuracy == (answers == measured.answers.labels).mean()
    assert found.abstaining is None


def test_what_the_answers_are_means_of_is_told(measured):
    told = dataclasses.replace(TOLD, views="two views")
    views = [gather.collect_report(measured, one).subject.views for one in (TOLD, told)]
    assert views == ["", "two views"]


def test_curves_are_of_the_classes_told_apart_worst(measured, monkeypatch):
    monkeypatch.setattr(gather, "CURVES", 2)
    facts = gather.collect_report(measured, TOLD)
    areas = {row.name: row.roc_area for row in facts.figures.per_class}
    assert [curve.name for curve in facts.curves] == sorted(areas, key=areas.get)[:2]


@pytest.mark.parametrize(
    ("rule", "name"), [(DecisionRule(), "b"), (DecisionRule(1, "a", 0.5), "a")]
)
def test_of_two_classes_it_is_the_positive_one(measured, rule, name):
    answers = measured.answers
    keep = np.flatnonzero(answers.labels < 2)
    two = evaluate.Predictions(("a", "b"), answers.labels[keep], answers.logits[keep, :2])
    found = gather.figures(two, rule)
    chances = decision_rule.probabilities(rule, two.logits)
    assert [curve.name for curve in gather._curves(two, rule, found, chances)] == [name]


def test_whoever_wants_an_end_is_heard(measured):
    def end():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        gather.collect_report(measured, TOLD, end)
    with pytest.raises(InterruptedError):
        next(images.take(images.Source(measured.once, SIZE, end), [3]))


def test_no_more_batches_are_read_than_hold_the_images(measured):
    asked = []

    def once(which):
        asked.append(which)
        return measured.once(which)

    source = images.Source(once, SIZE, lambda: None)
    assert [one.number for one in images.take(source, [29, 1, 28, 2])] == [1, 2, 28, 29]
    assert asked == [[0, 7]]
    assert list(images.take(source, [])) == []
    assert len(asked) == 1


def test_filling_is_no_image(measured):
    """The last batch of 30 in fours is filled up with the first ones."""
    source = images.Source(measured.once, SIZE, lambda: None)
    assert [one.number for one in images.take(source, [28, 0, 1])] == [0, 1, 28]


def test_a_thumbnail_is_small_and_keeps_its_shape():
    whole = np.random.default_rng(0).integers(0, 255, (300, 600, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(images.jpeg(whole))) as small_one:
        assert small_one.size == (images.SIDE, images.SIDE // 2)
        assert small_one.format == "JPEG"
