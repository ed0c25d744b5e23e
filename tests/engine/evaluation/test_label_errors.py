"""Wrong labels: those that were put in are found, the formulas by hand, and odd data."""

from __future__ import annotations

import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.evaluation import label_errors
from engine.evaluation.label_errors import NONE, check, find_label_issues, out_of_fold
from engine.frozen.precision import ComputeMode
from engine.models import classifier
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import small


def clouds(count: int = 300, classes: int = 3, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Classes that are some deviations apart, each about a place of its own."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    places = 3 * np.eye(classes, width)
    features = places[labels] + random.normal(size=(count, width))
    return features.astype(np.float32), labels


def flipped(labels: np.ndarray, share: float, classes: int, seed: int):
    """Labels with a share of them moved to another class, and which."""
    random = np.random.default_rng([7, seed])
    which = random.permutation(len(labels))[: round(share * len(labels))]
    wrong = labels.copy()
    wrong[which] = (wrong[which] + random.integers(1, classes, len(which))) % classes
    return wrong, which


def found_first(order: np.ndarray, which: np.ndarray, share: float) -> float:
    """How many of them stand in the first share of the list."""
    return float(np.isin(which, order[: round(share * len(order))]).mean())


def test_chances_are_those_of_a_regression_on_the_other_folds():
    """scikit-learn's own, on features that are standardised and not turned."""
    features, labels = clouds()
    found = out_of_fold(features, labels, 3, folds=4, seed=5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    fold_of = label_errors._folds(labels, None, 4, 5)
    scaled = (features - features.mean(0)) / features.std(0)
    for fold in range(4):
        mine = fold_of == fold
        plain = LogisticRegression(C=1 / 6, max_iter=1000).fit(scaled[~mine], labels[~mine])
        np.testing.assert_allclose(found[mine], plain.predict_proba(scaled[mine]), atol=2e-3)


def test_only_the_directions_that_vary_most_are_kept(monkeypatch):
    monkeypatch.setattr(label_errors, "DIRECTIONS", 2)
    random = np.random.default_rng(0)
    hidden = random.normal(size=(200, 2))
    features = hidden @ random.normal(size=(2, 7)) + 1e-3 * random.normal(size=(200, 7))
    reduced = label_errors._reduced(features)
    assert reduced.shape == (200, 2)
    scaled = (features - features.mean(0)) / features.std(0)
    distance = np.linalg.norm(scaled[:, None] - scaled, axis=-1)
    kept = np.linalg.norm(reduced[:, None] - reduced, axis=-1)
    np.testing.assert_allclose(kept, distance, atol=0.05)


def test_a_feature_that_is_always_the_same_does_no_harm():
    features, labels = clouds()
    features[:, 3] = 7
    assert np.isfinite(out_of_fold(features, labels, 3)).all()


def test_folds_are_even_in_every_class():
    labels = np.repeat([0, 1, 2], [50, 31, 7])
    fold_of = label_errors._folds(labels, None, 5, 0)
    table = np.array([np.bincount(fold_of[labels == label], minlength=5) for label in range(3)])
    assert np.all(np.ptp(table, axis=1) <= 1)
    assert np.ptp(np.bincount(fold_of)) <= 1
    assert not np.array_equal(fold_of, label_errors._folds(labels, None, 5, 1))
    assert np.array_equal(fold_of, label_errors._folds(labels, None, 5, 0))


def test_groups_stay_together_and_those_without_one_alone():
    labels = np.arange(60) % 2
    groups = ["" if n < 30 else f"g{n // 6}" for n in range(60)]
    groups[30:33] = ["täg\udcff"] * 3  # a name as the system gives it
    fold_of = label_errors._folds(labels, groups, 5, 0)
    for name in set(groups) - {""}:
        assert len({fold_of[n] for n in range(60) if groups[n] == name}) == 1
    assert set(fold_of[:30]) == set(range(5))


def test_copies_in_a_group_do_not_vouch_for_each_other():
    """Two copies of each image, both labelled at random: only by its copy could one be known."""
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(60, 200)).astype(np.float32), 2, axis=0)
    labels = np.repeat(random.integers(0, 2, 60), 2)
    groups = np.repeat([f"g{n}" for n in range(60)], 2)
    apart, together = (
        (out_of_fold(features, labels, 2, groups=names).argmax(1) == labels).mean()
        for names in (None, groups)
    )
    assert apart > 0.8
    assert together < 0.65


def test_rare_classes_stop_nobody():
    """One with a single example, one with two, and one with none at all."""
    features, labels = clouds(40, 2)
    labels = np.concatenate([labels, [2, 3, 3]])
    features = np.concatenate([features, features[:3] + 9])
    found = out_of_fold(features, labels, 5)
    assert found.shape == (43, 5)
    assert np.isfinite(found).all()
    assert found[40].tolist() == [0, 0, 1, 0, 0], "it is taken at its word"
    assert found[41:, 3].min() > 0
    assert not found[:, 4].any()
    result = find_label_issues(found, labels)
    assert result.order[-1] == 40
    assert not result.wrong[40]


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1], [1, 1, 0], [2, 1, 0]])
def test_next_to_nothing_is_checked_too(labels):
    labels = np.array(labels)
    features = np.random.default_rng(0).normal(size=(len(labels), 4))
    for classes in (3, labels.max() + 1):
        result = find_label_issues(out_of_fold(features, labels, classes), labels)
        assert sorted(result.order) == list(range(len(labels)))
        assert np.all(np.abs(result.margin) <= 1)


def test_suspects_by_hand():
    """Class 0 is usually believed at 0.7, class 1 at 0.4; class 2 has no example."""
    chances = np.array([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.5, 0.4, 0.1],
                        [0.7, 0.3, 0.0], [0.1, 0.5, 0.4]])  # fmt: skip
    result = find_label_issues(chances, np.array([0, 0, 1, 1, 1]))
    np.testing.assert_allclose(result.margin, [0.8, 0.2, -0.1, -0.4, 0.1], atol=1e-12)
    assert result.order.tolist() == [3, 2, 4, 1, 0]
    # 3: class 0 is as likely as usual. 2: it is likelier than the label, but not that likely.
    assert result.wrong.tolist() == [False, False, False, True, False]
    assert result.suggested.tolist() == [1, 1, 0, 0, 2]


def test_what_is_at_home_is_suggested_before_what_is_likelier():
    """Class 1 is likeliest and usually still likelier; class 2 usually less likely."""
    chances = np.array([[0.2, 0.45, 0.35], [0.1, 0.9, 0.0], [0.4, 0.3, 0.3]])
    result = find_label_issues(chances, np.array([0, 1, 2]))
    assert result.wrong.tolist() == [True, False, True]
    assert result.suggested.tolist() == [2, 0, 0]


def test_flipped_labels_are_found_among_clouds():
    features, truth = clouds(600)
    labels, which = flipped(truth, 0.05, 3, 0)
    result = find_label_issues(out_of_fold(features, labels, 3), labels)
    assert found_first(result.order, which, 0.1) >= 0.9
    found = which[result.wrong[which]]
    assert len(found) >= 0.5 * len(which)
    assert len(found) >= 0.9 * result.wrong.sum()
    assert (result.suggested[found] == truth[found]).mean() > 0.9


@pytest.fixture
def pretrained(monkeypatch):
    """A small network in the place of the pretrained one; says how often it was asked for."""
    asked = []

    def build(recipe, classes):
        asked.append(classes)
        return small.network(seed=3)

    monkeypatch.setattr(label_errors.classifier, "build", build)
    return asked


def recipe(**changes):
    return small.recipe(weights="imagenet", batch_size=4, precision="float32", **changes)


def mean_features(images: np.ndarray, network: classifier.Classifier) -> np.ndarray:
    import keras

    inner = keras.Model(network.model.inputs[0], network.features)
    return inner(images.astype(np.float32), training=False).numpy()


def test_the_features_are_those_of_the_network_before_training(pretrained, monkeypatch):
    handed = []

    def kept(features, labels, classes, **settings):
        handed.append((features, labels))
        return out_of_fold(features, labels, classes, **settings)

    monkeypatch.setattr(label_errors, "out_of_fold", kept)
    loader, calls = small.InMemoryDataLoader(), []
    result = check(recipe(), loader, small.network(seed=0), lambda: calls.append(1))
    read = list(loader.split_batches("train"))
    images = np.concatenate([batch.inputs for batch in read])[:10]
    labels = np.concatenate([batch.labels for batch in read])[:10]
    features, given = handed[0]
    assert (features.dtype, features.shape) == (np.float32, (10, 8))
    np.testing.assert_allclose(features, mean_features(images, small.network(seed=3)), atol=1e-5)
    assert np.array_equal(given, labels)
    assert pretrained == [3]
    assert result.features_of == "mobilenet_v2 as it was before training"
    assert result.note == ""
    assert len(calls) == 3 + 5, "three batches, five folds"
    chances = out_of_fold(features, labels, 3)
    assert result.accuracy == pytest.approx((chances.argmax(1) == labels).mean())
    assert np.array_equal(result.suspects.order, find_label_issues(chances, labels).order)


def test_the_groups_of_the_feed_go_with_their_examples(pretrained, monkeypatch):
    """Also where not all are looked at."""
    handed = []

    def kept(features, labels, classes, groups=None, **settings):
        handed.append(groups)
        return out_of_fold(features, labels, classes, groups=groups, **settings)

    monkeypatch.setattr(label_errors, "out_of_fold", kept)
    monkeypatch.setattr(label_errors, "MOST", 8)
    loader = small.InMemoryDataLoader(count=40)
    grouped = small.replaced(loader, groups=tuple(f"g{n // 2}" for n in range(40)))
    for each in (loader, grouped):
        check(recipe(), each, small.network())
    assert handed == [None, [f"g{n // 2}" for n in (0, 1, 2, 3, 36, 37, 38, 39)]]


@pytest.mark.parametrize("weights", ["none", "gone"])
def test_without_pretrained_weights_the_trained_network_serves(pretrained, monkeypatch, weights):
    def refuse(*_):
        raise UserError("can't be had")

    monkeypatch.setattr(label_errors.classifier, "build", refuse)
    result = check(small.recipe(weights=weights), small.InMemoryDataLoader(), small.network())
    assert result.features_of.startswith("the trained network, which may have learnt wrong labels")
    assert ("random weights" if weights == "none" else "can't be had") in result.features_of


def test_it_ends_where_it_is_asked_to(pretrained):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        check(recipe(), small.InMemoryDataLoader(), small.network(), stop)


def test_of_too_many_images_some_are_looked_at(pretrained, monkeypatch):
    monkeypatch.setattr(label_errors, "MOST", 8)
    result = check(recipe(), small.InMemoryDataLoader(count=40), small.network())
    assert result.note == "8 of 40 images were looked at"
    found = result.suspects
    assert sorted(found.order) == list(range(40))
    looked_at = [0, 1, 2, 3, 36, 37, 38, 39]
    assert sorted(found.order[:8]) == looked_at
    assert np.flatnonzero(found.suggested != NONE).tolist() == looked_at
    assert np.all(np.diff(found.margin[found.order]) >= 0)
    assert not np.delete(found.wrong, looked_at).any()


def test_the_fastest_sound_precision_makes_the_features(pretrained, monkeypatch):
    programs = [ComputeMode(), ComputeMode("mixed_bfloat16")]
    monkeypatch.setattr(label_errors.precision, "candidates", lambda _: programs)
    monkeypatch.setattr(
        label_errors.precision, "best", lambda done: types.SimpleNamespace(program=programs[1])
    )
    network, loader = small.network(), small.InMemoryDataLoader()
    images = np.asarray(next(iter(loader.split_batches("train"))).inputs)
    found = label_errors.forward(network, recipe(), loader)(images)
    exact = mean_features(images, network)
    apart = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < apart < 0.02, "bfloat16 has eight bits"


@pytest.fixture(scope="module")
def photographs(cats_dogs):
    """Features of 2,000 photographs by the network that the recipe names, and their labels."""
    data = DataSpec("folders", str(cats_dogs))
    spec = small.recipe(
        data=data, backbone="efficientnet_lite0", weights="imagenet", image_size=(224, 224),
        batch_size=32, precision="auto",
    )  # fmt: skip
    loader = batches.ImageDataLoader(sources.load(data), spec, 2)
    network = classifier.build(spec, 2)
    labels: list = []
    read = label_errors._noted(loader.split_batches("train"), labels, lambda: None)
    features = label_errors.pooled_features(label_errors.forward(network, spec, loader), read)
    return features, np.concatenate([given for given, _ in labels]), loader, spec


@pytest.mark.parametrize("seed", range(5))
def test_flipped_labels_of_photographs_are_found(photographs, seed):
    """Of 2 % that are wrong, four fifths at least in the first 4 % of the list."""
    features, truth, *_ = photographs
    labels, which = flipped(truth, 0.02, 2, seed)
    chances = out_of_fold(features, labels, 2)
    result = find_label_issues(chances, labels)
    share, wrong = found_first(result.order, which, 0.04), result.wrong
    print(
        f"seed {seed}: {len(which)} of {len(labels)} labels flipped, {share:.1%} of them in the "
        f"first 4 %; called wrong {wrong.sum()}, {wrong[which].sum()} of them flipped"
    )
    assert share >= 0.8
