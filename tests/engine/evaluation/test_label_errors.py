"""Flipped labels are found, formulas agree with hand computations, and odd data is accepted."""

from __future__ import annotations

import math
import time
import types
import warnings

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Phase
from engine.evaluation import label_errors
from engine.evaluation.label_errors import (
    assign_folds,
    check_labels,
    extract_features,
    find_label_issues,
    out_of_fold,
)
from engine.frozen.precision import ComputeMode
from engine.models import classifier
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import small


def clusters(count: int = 300, classes: int = 3, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of classes with centres three standard deviations from 0."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centres = 3 * np.eye(classes, width)
    features = centres[labels] + random.normal(size=(count, width))
    return features.astype(np.float32), labels


def flip(labels: np.ndarray, share: float, classes: int, seed: int):
    """Labels with a share of them moved to another class, and which."""
    random = np.random.default_rng([7, seed])
    flipped = random.permutation(len(labels))[: round(share * len(labels))]
    wrong = labels.copy()
    wrong[flipped] = (wrong[flipped] + random.integers(1, classes, len(flipped))) % classes
    return wrong, flipped


def recall_at(order: np.ndarray, flipped: np.ndarray, share: float) -> float:
    """Share of the flipped labels in the first part of the ranking."""
    return float(np.isin(flipped, order[: round(share * len(order))]).mean())


def test_out_of_fold_equals_regressions_on_the_other_folds(monkeypatch):
    """scikit-learn's own, on standardised features."""
    monkeypatch.setattr(label_errors, "TOLERANCE", 1e-5)
    features, labels = clusters()
    probabilities = out_of_fold(features, labels, 3, seed=5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    fold_of = assign_folds(labels, (), 5)
    scaled = (features - features.mean(0)) / features.std(0)
    for fold in range(5):
        held_out = fold_of == fold
        model = LogisticRegression(C=1 / 6, max_iter=1000).fit(scaled[~held_out], labels[~held_out])
        expected = model.predict_proba(scaled[held_out])
        np.testing.assert_allclose(probabilities[held_out], expected, atol=1e-3)


def test_out_of_fold_ends_at_its_deadline_with_the_same_ranking_less_certain():
    features, labels = clusters()
    solved, ended = (out_of_fold(features, labels, 3, deadline=when) for when in (math.inf, 0.0))
    assert (ended.argmax(1) == solved.argmax(1)).mean() > 0.9
    assert ended.max(1).mean() < solved.max(1).mean()


def test_constant_feature_does_no_harm():
    features, labels = clusters()
    features[:, 3] = 7
    assert np.isfinite(out_of_fold(features, labels, 3)).all()


def test_folds_are_stratified_and_reproducible():
    labels = np.repeat([0, 1, 2], [50, 31, 7])
    fold_of = assign_folds(labels, (), 0)
    table = np.array([np.bincount(fold_of[labels == label], minlength=5) for label in range(3)])
    assert np.all(np.ptp(table, axis=1) <= 1)
    assert np.ptp(np.bincount(fold_of)) <= 1
    assert not np.array_equal(fold_of, assign_folds(labels, (), 1))
    assert np.array_equal(fold_of, assign_folds(labels, (), 0))


def test_folds_keep_groups_together():
    labels = np.arange(60) % 2
    groups = ["" if n < 30 else f"g{n // 6}" for n in range(60)]
    groups[30:33] = ["täg\udcff"] * 3  # a name that is not UTF-8
    fold_of = assign_folds(labels, groups, 0)
    for name in set(groups) - {""}:
        assert len({fold_of[n] for n in range(60) if groups[n] == name}) == 1
    assert set(fold_of[:30]) == set(range(5))


def test_copies_in_a_group_do_not_confirm_each_other():
    """Two copies of each image, both labelled at random: only its copy could predict one."""
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(60, 200)).astype(np.float32), 2, axis=0)
    labels = np.repeat(random.integers(0, 2, 60), 2)
    groups = [f"g{n // 2}" for n in range(120)]
    apart, together = (
        (out_of_fold(features, labels, 2, names).argmax(1) == labels).mean()
        for names in ([], groups)
    )
    assert apart > 0.8
    assert together < 0.65


def test_rare_classes_are_accepted():
    """One with a single example, one with two, and one without any."""
    features, labels = clusters(40, 2)
    labels = np.concatenate([labels, [2, 3, 3]])
    features = np.concatenate([features, features[:3] + 9])
    probabilities = out_of_fold(features, labels, 5)
    assert probabilities.shape == (43, 5)
    assert np.isfinite(probabilities).all()
    assert probabilities[40].tolist() == [0, 0, 1, 0, 0], "it can't be checked"
    assert probabilities[41:, 3].min() > 0
    assert not probabilities[:, 4].any()
    issues = find_label_issues(probabilities, labels)
    assert issues.order[-1] == 40
    assert not issues.is_issue[40]


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1], [1, 1, 0], [2, 1, 0]])
def test_very_few_images_are_accepted(labels):
    labels = np.array(labels)
    features = np.random.default_rng(0).normal(size=(len(labels), 4))
    for classes in (3, labels.max() + 1):
        issues = find_label_issues(out_of_fold(features, labels, classes), labels)
        assert sorted(issues.order) == list(range(len(labels)))
        assert np.all(np.abs(issues.margin) <= 1)


def test_label_issues_by_hand():
    """Thresholds: class 0 at 0.7, class 1 at 0.4; class 2 has no example."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.5, 0.4, 0.1],
                              [0.7, 0.3, 0.0], [0.1, 0.5, 0.4]])  # fmt: skip
    issues = find_label_issues(probabilities, np.array([0, 0, 1, 1, 1]))
    np.testing.assert_allclose(issues.margin, [0.8, 0.2, -0.1, -0.4, 0.1], atol=1e-12)
    assert issues.order.tolist() == [3, 2, 4, 1, 0]
    # 3: class 0 reaches its threshold. 2: it is more likely than the label, but below it.
    assert issues.is_issue.tolist() == [False, False, False, True, False]
    assert issues.suggested.tolist() == [1, 1, 0, 0, 2]


def test_suggestion_prefers_a_class_above_its_threshold():
    """Class 1 is the most likely, but below its threshold; class 2 is above."""
    probabilities = np.array([[0.2, 0.45, 0.35], [0.1, 0.9, 0.0], [0.4, 0.3, 0.3]])
    issues = find_label_issues(probabilities, np.array([0, 1, 2]))
    assert issues.is_issue.tolist() == [True, False, True]
    assert issues.suggested.tolist() == [2, 0, 0]


def test_flipped_labels_of_clusters_are_found():
    features, truth = clusters(600)
    labels, flipped = flip(truth, 0.05, 3, 0)
    issues = find_label_issues(out_of_fold(features, labels, 3), labels)
    assert recall_at(issues.order, flipped, 0.1) >= 0.9
    found = flipped[issues.is_issue[flipped]]
    assert len(found) >= 0.5 * len(flipped)
    assert len(found) >= 0.9 * issues.is_issue.sum()
    assert (issues.suggested[found] == truth[found]).mean() > 0.9


@pytest.fixture
def pretrained(monkeypatch):
    """Replaces the pretrained network by a small one; records the classes of each build."""
    builds = []

    def build(recipe, classes):
        builds.append(classes)
        return small.network(seed=3)

    monkeypatch.setattr(label_errors.classifier, "build", build)
    return builds


@pytest.fixture
def out_of_fold_calls(monkeypatch):
    """Records features, labels and groups of each call."""
    calls = []

    def record(features, labels, classes, groups, *settings):
        calls.append((features, labels, groups))
        return out_of_fold(features, labels, classes, groups, *settings)

    monkeypatch.setattr(label_errors, "out_of_fold", record)
    return calls


TUNE = Phase("tune", "top")


def recipe(phases=(TUNE,), weights="imagenet"):
    return small.recipe(weights=weights, batch_size=4, precision="float32", phases=phases)


def mean_features(images: np.ndarray, network: classifier.Classifier) -> np.ndarray:
    inner = keras.Model(network.model.inputs[0], network.features)
    return inner(images.astype(np.float32), training=False).numpy()


def test_check_uses_features_of_the_network_before_training(pretrained, out_of_fold_calls):
    loader, stops = small.InMemoryDataLoader(), []
    check = check_labels(recipe(), loader, small.network(seed=0), lambda: stops.append(1))
    read = list(loader.split_batches("train"))
    images, labels = (np.concatenate([b[n] for b in read])[:10] for n in (0, 1))
    features, passed, _ = out_of_fold_calls[0]
    assert (features.dtype, features.shape) == (np.float32, (10, 8))
    np.testing.assert_allclose(features, mean_features(images, small.network(seed=3)), atol=1e-5)
    assert np.array_equal(passed, labels)
    assert pretrained == [3]
    assert check.feature_network == "mobilenet_v2 as it was before training"
    assert (check.note, check.examples.tolist()) == ("", list(range(10)))
    assert len(stops) > 3 + 5, "three batches, and each evaluation of the loss"
    probabilities = out_of_fold(features, labels, 3)
    assert check.accuracy == pytest.approx((probabilities.argmax(1) == labels).mean())
    assert np.array_equal(check.issues.order, find_label_issues(probabilities, labels).order)


def test_check_of_too_many_images_examines_some_with_their_groups(
    pretrained, out_of_fold_calls, monkeypatch
):
    monkeypatch.setattr(label_errors, "MAX_IMAGES", 8)
    loader, order = small.InMemoryDataLoader(count=40), np.random.default_rng(0).permutation(10)
    examined = [4 * batch + n for batch in sorted(order[:2].tolist()) for n in range(4)]
    grouped = small.replaced(loader, groups=tuple(f"g{n // 2}" for n in range(40)))
    for each in (loader, grouped):
        check = check_labels(recipe(), each, small.network())
        assert check.note == "8 of 40 images were examined"
        assert check.examples.tolist() == examined
        assert sorted(check.issues.order) == list(range(8))
        assert np.all(np.diff(check.issues.margin[check.issues.order]) >= 0)
    groups = [call[2] for call in out_of_fold_calls]
    assert groups == [[], [f"g{n // 2}" for n in examined]]


def test_check_examines_as_many_images_as_its_time_allows(pretrained):
    loader, past = small.InMemoryDataLoader(count=40), time.perf_counter() - 1
    check = check_labels(recipe(), loader, small.network(), mode=ComputeMode(), deadline=past)
    assert (check.note, len(check.examples)) == ("4 of 40 images were examined", 4)


@pytest.mark.parametrize(
    ("weights", "reason"), [("none", "random weights"), ("gone", "can't be fetched")]
)
def test_check_without_pretrained_weights_uses_the_trained_network(monkeypatch, weights, reason):
    def refuse(*_):
        raise UserError("can't be fetched")

    monkeypatch.setattr(label_errors.classifier, "build", refuse)
    check = check_labels(recipe(weights=weights), small.InMemoryDataLoader(), small.network())
    assert check.feature_network.startswith("the trained network, which may have memorised")
    assert reason in check.feature_network


def test_check_takes_the_network_of_a_run_that_trained_its_head_alone(pretrained):
    spec = recipe(phases=(Phase("probe", "head"),))
    check = check_labels(spec, small.InMemoryDataLoader(), small.network())
    assert check.feature_network == "mobilenet_v2 as it was before training"
    assert pretrained == []


def test_check_ends_when_stopped(pretrained):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        check_labels(recipe(), small.InMemoryDataLoader(), small.network(), stop)


def test_features_are_extracted_in_the_fastest_mode(monkeypatch):
    modes = [ComputeMode(), ComputeMode("mixed_bfloat16")]
    monkeypatch.setattr(label_errors.precision, "recipe_modes", lambda _: modes)
    best = types.SimpleNamespace(mode=modes[1])
    monkeypatch.setattr(label_errors.precision, "choose_trial", lambda _: best)
    network, loader = small.network(), small.InMemoryDataLoader()
    images = np.asarray(next(iter(loader.split_batches("train"))).inputs)
    features, _, _ = extract_features(network, recipe(), loader, [0])
    exact = mean_features(images, network)
    distance = np.linalg.norm(features - exact) / np.linalg.norm(exact)
    assert 1e-5 < distance < 0.02, "bfloat16 has eight bits"


@pytest.fixture(scope="module")
def photographs(cats_dogs):
    """Features of 2,000 photographs by the network that the recipe names, and their labels."""
    data = DataSpec("folders", str(cats_dogs))
    spec = small.recipe(
        data=data, backbone="efficientnet_lite0", weights="imagenet", image_size=(224, 224),
        batch_size=32, precision="auto",
    )  # fmt: skip
    loader = batches.ImageDataLoader(sources.load_examples(data), spec, 2)
    return extract_features(classifier.build(spec, 2), spec, loader)[:2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_flipped_labels_of_photographs_are_found(photographs, seed):
    """Of 2 % that are wrong, at least four fifths are in the first 4 % of the ranking."""
    features, truth = photographs
    labels, flipped = flip(truth, 0.02, 2, seed)
    issues = find_label_issues(out_of_fold(features, labels, 2), labels)
    share, wrong = recall_at(issues.order, flipped, 0.04), issues.is_issue
    print(
        f"seed {seed}: {len(flipped)} of {len(labels)} labels flipped, {share:.1%} of them in the "
        f"first 4 %; {wrong.sum()} issues, {wrong[flipped].sum()} of them flipped"
    )
    assert share >= 0.8


def test_nearly_as_many_classes_as_images_are_checked_without_a_warning():
    labels = np.arange(48) % 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out_of_fold(np.random.default_rng(0).normal(size=(48, 8)), labels, 30)
