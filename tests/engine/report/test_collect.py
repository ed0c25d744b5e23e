"""From answers to report, on a network of a few hundred numbers."""

import dataclasses
import functools
import io

import numpy as np
import pytest
from PIL import Image

from engine.evaluation import decision_rule, eval_step, evaluate, label_errors
from engine.evaluation.classification_metrics import classification_metrics
from engine.evaluation.decision_rule import DecisionRule
from engine.report import collect, images
from engine.report.collect import MeasuredModel, ReportContext
from engine.runs.directory import RunDirectory
from tests.engine import small

CONTEXT = ReportContext(
    "train", "the run's own", True, "2026-02-03T04:05:06+00:00", "bin/train", 2.0
)
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
        predictions=answers,
        batches=functools.partial(loader.split_batches, "train"),
        fitted_on_these=False,
    )


def opened(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), float)


def test_mistakes_are_ordered_by_confidence_with_their_images(measured):
    report = collect.collect_report(measured, CONTEXT)
    answers = measured.predictions
    chances = np.exp(answers.logits) / np.exp(answers.logits).sum(1, keepdims=True)
    wrong = np.flatnonzero(answers.logits.argmax(1) != answers.labels)
    assert len(report.mistakes) == len(wrong) > 5
    sureness = [one.probability for one in report.mistakes]
    assert sureness == sorted(sureness, reverse=True)
    whole = np.concatenate([np.asarray(batch.inputs) for batch in measured.batches()])
    for one in report.mistakes[: collect.MAX_IMAGES]:
        number = int(one.name.split("/")[-1].split(".")[0])
        assert number in wrong
        assert one.given == answers.classes[answers.labels[number]]
        assert one.probability == pytest.approx(chances[number].max(), rel=1e-5)
        assert one.predicted == answers.classes[chances[number].argmax()]
        shown = opened(one.image)
        distances = [np.abs(shown - image).mean() for image in whole[:30]]
        assert int(np.argmin(distances)) == number
        assert opened(one.overlay).shape == shown.shape
    assert [bool(one.image) for one in report.mistakes] == [
        place < collect.MAX_IMAGES for place in range(len(wrong))
    ]


def test_suspects_have_label_and_suggestion(measured, monkeypatch):
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
    monkeypatch.setattr(collect, "MAX_IMAGES", 4)
    found = collect.collect_report(dataclasses.replace(measured, training=loader), CONTEXT).labels
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


def test_labels_are_not_checked_without_training_data(measured):
    assert collect.collect_report(measured, CONTEXT).labels is None


def test_rule_gives_operating_point_decisions_and_abstention(measured):
    plain = collect.collect_report(measured, CONTEXT)
    assert plain.operating_point is None
    assert plain.decisions is plain.abstention is None
    rule = DecisionRule(1.0, "b", 0.3, 0.9, 0.34)
    found = collect.collect_report(dataclasses.replace(measured, rule=rule), CONTEXT)
    given = measured.predictions.labels == 1
    assert found.operating_point.found + found.operating_point.missed == given.sum()
    chances = np.exp(measured.predictions.logits)
    chances /= chances.sum(1, keepdims=True)
    assert found.operating_point.found == (chances[given, 1] >= 0.3).sum()
    assert found.abstention.uncertain == (chances.max(1) < 0.34).sum()
    rule = dataclasses.replace(rule, abstain=None)
    found = collect.collect_report(dataclasses.replace(measured, rule=rule), CONTEXT)
    others = np.where(np.arange(chances.shape[1]) == 1, 0, chances).argmax(1)
    answers = np.where(chances[:, 1] >= 0.3, 1, others)
    assert found.decisions.accuracy == (answers == measured.predictions.labels).mean()
    assert found.abstention is None


def test_views_come_from_the_context(measured):
    told = dataclasses.replace(CONTEXT, views="two views")
    views = [collect.collect_report(measured, one).subject.views for one in (CONTEXT, told)]
    assert views == ["", "two views"]


def test_curves_are_of_the_classes_with_the_smallest_areas(measured, monkeypatch):
    monkeypatch.setattr(collect, "MAX_CURVES", 2)
    report = collect.collect_report(measured, CONTEXT)
    areas = {row.name: row.roc_area for row in report.metrics.per_class}
    assert [curve.name for curve in report.curves] == sorted(areas, key=areas.get)[:2]


@pytest.mark.parametrize(
    ("rule", "name"), [(DecisionRule(), "b"), (DecisionRule(1, "a", 0.5), "a")]
)
def test_curve_of_two_classes_is_the_positive_ones(measured, rule, name):
    answers = measured.predictions
    keep = np.flatnonzero(answers.labels < 2)
    two = evaluate.Predictions(("a", "b"), answers.labels[keep], answers.logits[keep, :2])
    found = classification_metrics(two, rule)
    chances = decision_rule.probabilities(rule, two.logits)
    assert [curve.name for curve in collect._curves(two, rule, found, chances)] == [name]


def test_collect_ends_when_stopped(measured):
    def end():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        collect.collect_report(measured, CONTEXT, end)
    with pytest.raises(InterruptedError):
        next(images.read_images(images.ImageSource(measured.batches, SIZE, end), [3]))


def test_read_images_reads_as_few_batches_as_possible(measured):
    asked = []

    def once(which):
        asked.append(which)
        return measured.batches(which)

    source = images.ImageSource(once, SIZE, lambda: None)
    assert [one.number for one in images.read_images(source, [29, 1, 28, 2])] == [1, 2, 28, 29]
    assert asked == [[0, 7]]
    assert list(images.read_images(source, [])) == []
    assert len(asked) == 1


def test_read_images_skips_padding(measured):
    """The last batch of 30 in fours is filled up with the first ones."""
    source = images.ImageSource(measured.batches, SIZE, lambda: None)
    assert [one.number for one in images.read_images(source, [28, 0, 1])] == [0, 1, 28]


def test_thumbnail_keeps_the_aspect_ratio():
    whole = np.random.default_rng(0).integers(0, 255, (300, 600, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(images.jpeg(whole))) as small_one:
        assert small_one.size == (images.MAX_SIDE, images.MAX_SIDE // 2)
        assert small_one.format == "JPEG"
