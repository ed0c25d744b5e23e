"""From predictions to report, on a network of a few hundred numbers."""

import dataclasses
import functools
import io

import numpy as np
import pytest
import scipy.special
from PIL import Image

from engine.evaluation import eval_step, evaluate, label_errors
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.model_metrics import measure_model
from engine.report import collect, images
from engine.report.collect import MeasuredModel
from engine.runs.directory import RunDirectory
from tests.engine import small
from tests.engine.report.example_report import CONTEXT

SIZE = 4  # of a batch


LOADER = small.InMemoryDataLoader(count=30, size=SIZE)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> MeasuredModel:
    """All images of LOADER, and what a network with random weights predicts for them."""
    classifier, batches = small.network(), functools.partial(LOADER.split_batches, "train")
    step = eval_step.make_eval_step(classifier.model)
    predictions = evaluate.collect_predictions(step, batches(), LOADER.classes)
    return MeasuredModel(
        run=RunDirectory(tmp_path_factory.mktemp("run")),
        recipe=small.recipe(batch_size=SIZE, image_size=(small.SIDE, small.SIDE)),
        classifier=classifier,
        measured=measure_model(predictions, DecisionRule(), False),
        predictions=predictions,
        batches=batches,
    )


def with_rule(model: MeasuredModel, rule: DecisionRule) -> MeasuredModel:
    return dataclasses.replace(model, measured=measure_model(model.predictions, rule, False))


def test_mistakes_are_ordered_by_confidence_and_shown_by_pair(measured, monkeypatch):
    monkeypatch.setattr(collect, "MAX_IMAGES", 7)
    mistakes = collect.collect_report(measured, CONTEXT).mistakes
    probabilities = scipy.special.softmax(measured.predictions.logits, 1)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != LOADER.labels)
    numbers = wrong[np.argsort(-confidence[wrong])].tolist()
    assert [int(mistake.name) for mistake in mistakes] == numbers
    for number, mistake in zip(numbers, mistakes, strict=True):
        assert mistake.given == LOADER.classes[LOADER.labels[number]]
        assert mistake.predicted == LOADER.classes[predicted[number]]
        assert mistake.probability == pytest.approx(confidence[number], rel=1e-5)
    shown = [number for number, mistake in zip(numbers, mistakes, strict=True) if mistake.image]
    pairs = [(LOADER.labels[number], predicted[number]) for number in numbers]
    rounds = [pairs[:place].count(pair) for place, pair in enumerate(pairs)]
    assert max(rounds) > 1
    expected = sorted(range(len(numbers)), key=lambda place: (rounds[place], place))[:7]
    assert shown == [numbers[place] for place in sorted(expected)]
    first = next(mistake for mistake in mistakes if mistake.image)
    assert first.image == images.jpeg(LOADER.images[shown[0]])
    with Image.open(io.BytesIO(first.overlay)) as overlay:
        assert overlay.size == (small.SIDE, small.SIDE)


def test_suspects_have_label_and_suggestion(measured, monkeypatch):
    order = np.random.default_rng(0).permutation(30).astype(np.int32)
    margin, suggested = np.where(np.arange(30) % 3 == 0, -0.5, 0.5), (LOADER.labels + 1) % 3
    issues = label_errors.LabelIssues(order, suggested, np.arange(30) % 6 == 0, margin)
    check = label_errors.LabelCheck(issues, np.arange(30), LOADER.labels, 0.75, "a network")
    monkeypatch.setattr(label_errors, "check_labels", lambda *_: check)
    monkeypatch.setattr(collect, "MAX_IMAGES", 4)
    summary = collect.collect_report(dataclasses.replace(measured, training=LOADER), CONTEXT).labels
    expected = [n for n in order.tolist() if n % 3 == 0]
    labels = [LOADER.labels[n] for n in expected]
    assert [one.name for one in summary.suspects] == [str(n) for n in expected]
    assert [one.given for one in summary.suspects] == [LOADER.classes[n] for n in labels]
    assert [one.suggested for one in summary.suspects] == [LOADER.classes[n - 2] for n in labels]
    assert [one.likely for one in summary.suspects] == [n % 6 == 0 for n in expected]
    assert [bool(one.image) for one in summary.suspects] == [True] * 4 + [False] * 6
    assert summary.suspects[0].image == images.jpeg(LOADER.images[expected[0]])
    assert (summary.examined, summary.accuracy, summary.features_of) == (30, 0.75, "a network")


def test_report_without_time_explains_one_mistake_and_checks_no_label(measured):
    model = dataclasses.replace(measured, training=LOADER)
    report = collect.collect_report(model, CONTEXT, seconds=0.0)
    assert sum(bool(mistake.image) for mistake in report.mistakes) == 1
    assert report.limited
    assert report.labels is None


def test_rule_gives_operating_point_decisions_and_abstention(measured):
    plain = collect.collect_report(measured, CONTEXT)
    assert plain.operating_point is plain.decisions is plain.abstention is None
    assert plain.labels is None, "without training data"
    rule = DecisionRule(1.0, "b", 0.3, 0.9, 0.34)
    report = collect.collect_report(with_rule(measured, rule), CONTEXT)
    of_class = measured.predictions.labels == 1
    probabilities = scipy.special.softmax(measured.predictions.logits, 1)
    assert report.operating_point.hits == (probabilities[of_class, 1] >= 0.3).sum()
    assert report.abstention.uncertain == (probabilities.max(1) < 0.34).sum()
    rule = dataclasses.replace(rule, abstain=None)
    report = collect.collect_report(with_rule(measured, rule), CONTEXT)
    assert report.decisions.uncertain == 0
    assert report.abstention is None


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
    curves = collect.class_curves(two, measure_model(two, rule, False))
    assert [curve.name for curve in curves] == [name]


def test_collect_ends_when_stopped(measured):
    def end():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        collect.collect_report(measured, CONTEXT, end)
    with pytest.raises(InterruptedError):
        next(images.read_images(images.ImageSource(measured.batches, SIZE, end), [3]))


def test_read_images_reads_as_few_batches_as_possible_and_skips_padding(measured):
    """The last batch of 30 in fours is filled up with the first ones."""
    requested = []

    def once(which):
        requested.append(which)
        return measured.batches(which)

    source = images.ImageSource(once, SIZE, lambda: None)
    assert [number for number, _ in images.read_images(source, [29, 1, 28, 2])] == [1, 2, 28, 29]
    assert requested == [[0, 7]]
    assert [number for number, _ in images.read_images(source, [28, 0])] == [0, 28]
    assert list(images.read_images(source, [])) == []
    assert len(requested) == 2


def test_thumbnail_keeps_the_aspect_ratio():
    whole = np.random.default_rng(0).integers(0, 255, (300, 600, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(images.jpeg(whole))) as small_one:
        assert small_one.size == (images.MAX_SIDE, images.MAX_SIDE // 2)
        assert small_one.format == "JPEG"
