"""Training images whose labels are likely wrong, by confident learning.

Each image is classified by a logistic regression trained on the others, from features of the
network as it was before training, because a network that trained on a wrong label has learnt it.

Source: Northcutt, Jiang & Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset
Labels, JAIR 70, sections 3.1 and 3.2.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.frozen import precision, trunk
from engine.models import classifier, freezing
from engine.models.classifier import Classifier

# Principal components that the regression sees. Among 2,000 cats and dogs, 40 of them mislabelled,
# all 1,280 features found no more of these and took far longer.
COMPONENTS = 512
MAX_ITERATIONS = 100
FOLDS = 5
MAX_IMAGES = 100_000  # features take about 0.5 GB, and as much again while they are reduced


@dataclasses.dataclass(frozen=True)
class LabelIssues:
    """What confident learning says of N labels.

    order: int64 [N], 0 to N - 1, those with the most likely wrong labels first.
    suggested: int64 [N], the other class that is most likely the right one.
    is_issue: bool [N], whether the label is likely wrong: the suggested class is more likely than
      the label, and at least as likely as it is, on average, for the images with its own label.
    margin: float64 [N], -1 to 1, probability of the label less that of the best other class.
    """

    order: np.ndarray
    suggested: np.ndarray
    is_issue: np.ndarray
    margin: np.ndarray


@dataclasses.dataclass(frozen=True)
class LabelCheck:
    """The label issues of a training split.

    examples: int [N], the numbers of the examples that were examined, in the order of the issues.
    labels: int [N], theirs.
    accuracy: share of their labels that the regression predicts too.
    feature_network: describes the network that the features come from.
    note: says how many images were examined, if not all.
    """

    issues: LabelIssues
    examples: np.ndarray
    labels: np.ndarray
    accuracy: float
    feature_network: str
    note: str = ""


def check_labels(
    recipe: Recipe,
    loader: DataLoader,
    trained: Classifier,
    check_stop: Callable[[], None] = lambda: None,
) -> LabelCheck:
    """Checks the labels of the training split; images of one group share a fold.

    Args:
      recipe: the run's.
      loader: the run's data.
      trained: the run's network, which is used if there is no pretrained one.
      check_stop: called before each batch and each fold; it raises to stop the check.
    """
    classes = len(loader.classes)
    network, feature_network = _feature_network(recipe, classes, trained)
    total = loader.train_examples
    numbers = None
    if total > MAX_IMAGES:  # batches spread evenly over the split
        batches, wanted = -(-total // recipe.batch_size), MAX_IMAGES // recipe.batch_size
        numbers = np.linspace(0, batches - 1, wanted).astype(int).tolist()
    features, labels, examples = extract_features(network, recipe, loader, numbers, check_stop)
    groups = [loader.groups[example] for example in examples] if loader.groups else []
    probabilities = out_of_fold(features, labels, classes, groups, recipe.seed, check_stop)
    return LabelCheck(
        issues=find_label_issues(probabilities, labels),
        examples=examples,
        labels=labels,
        accuracy=float((probabilities.argmax(-1) == labels).mean()),
        feature_network=feature_network,
        note=f"{len(examples):,} of {total:,} images were examined" if numbers else "",
    )


def _feature_network(recipe: Recipe, classes: int, trained: Classifier) -> tuple[Classifier, str]:
    fallback = "the trained network, which may have memorised wrong labels"
    if recipe.weights == "none":
        return trained, f"{fallback}: it started from random weights"
    try:
        pretrained = classifier.build(recipe, classes)
    except UserError as error:
        return trained, f"{fallback}: {error}"
    return pretrained, f"{recipe.backbone} as it was before training"


def extract_features(
    network: Classifier,
    recipe: Recipe,
    loader: DataLoader,
    numbers: list[int] | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pooled features (float32 [N, D]), labels and example numbers, without padding.

    The network runs in the fastest compute mode within tolerance.

    Args:
      network, recipe: the network and what it was built by.
      loader: gives the training split.
      numbers: of the batches; None for all.
      check_stop: called before each batch.
    """
    frozen = freezing.partition_model(network, "head").trunk
    compile_mode = functools.cache(functools.partial(trunk.compile_frozen, frozen))
    mode, *others = precision.recipe_modes(recipe)
    if others:
        first = tf.cast(next(iter(loader.split_batches("train", [0]))).inputs, tf.float32)
        trials = precision.run_trials([mode, *others], compile_mode, first)
        mode = precision.choose_trial(trials).mode
    run, rows = compile_mode(mode), []
    for batch in loader.split_batches("train", numbers):
        check_stop()
        real = np.asarray(batch.weights) > 0
        features = tf.cast(run(tf.cast(batch.inputs, tf.float32))[0], tf.float32)
        rows.append([np.asarray(x)[real] for x in (features, batch.labels, batch.examples)])
    features, labels, examples = map(np.concatenate, zip(*rows, strict=True))
    return features, labels, examples


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    groups: Sequence[str] = (),
    seed: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Returns each example's probabilities by a regression on the other folds.

    An example whose label does not occur in another fold can't be checked; its label gets a
    probability of 1.

    Args:
      features: [N, D].
      labels: int [N].
      classes: number of classes.
      groups: see `assign_folds`.
      seed: of the assignment to folds.
      check_stop: called before each fold.

    Returns:
      float64 [N, classes].
    """
    labels, reduced = np.asarray(labels), _reduce(features)
    fold_of = assign_folds(labels, groups, seed)
    probabilities = np.zeros([len(labels), classes])
    for fold in np.unique(fold_of):
        check_stop()
        held_out = fold_of == fold
        known = np.unique(labels[~held_out])
        if len(known) > 1:
            model = _fit_regression(reduced[~held_out], labels[~held_out], features.shape[1])
            probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(reduced[held_out])
        else:
            probabilities[np.ix_(held_out, known)] = 1
        unknown = np.flatnonzero(held_out & ~np.isin(labels, known))
        probabilities[unknown] = np.eye(classes)[labels[unknown]]
    return probabilities


def _reduce(features: np.ndarray) -> np.ndarray:
    """Returns the first COMPONENTS principal components of standardised features."""
    features = np.asarray(features, np.float32)
    deviation = features.std(0)
    scaled = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)
    axes = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1]  # largest variance first
    return scaled @ axes[:, :COMPONENTS]


def _fit_regression(features: np.ndarray, labels: np.ndarray, width: int) -> Any:
    """Fits with a prior so strong that logits of `width` features are about 1 in size.

    It does not follow wrong labels among those that it is fitted on.
    """
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no convergence, or of many classes for the images
        return LogisticRegression(C=1 / width, max_iter=MAX_ITERATIONS).fit(features, labels)


def assign_folds(
    labels: np.ndarray, groups: Sequence[str], seed: int, folds: int = FOLDS
) -> np.ndarray:
    """Returns each example's fold, int [N]; classes are spread evenly and groups stay together.

    scikit-learn's splitters refuse classes with fewer examples than folds.

    Args:
      labels: int [N].
      groups: the group of each example, '' for none; empty where no groups are known.
      seed: of the assignment.
      folds: their number, fewer where there are fewer examples or groups.
    """
    units: dict[str | int, int] = {}
    names = [group or number for number, group in enumerate(groups or [""] * len(labels))]
    unit = np.array([units.setdefault(name, len(units)) for name in names])
    first = np.unique(unit, return_index=True)[1]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold_of = np.empty(len(first), int)
    fold_of[order] = np.arange(len(first)) % folds
    return fold_of[unit]


def find_label_issues(probabilities: np.ndarray, labels: np.ndarray) -> LabelIssues:
    """Finds label issues by the paper's confident joint, ranked by the normalised margin.

    Args:
      probabilities: [N, classes], each by a classifier that was not fitted on the example.
      labels: int [N].
    """
    labels, classes = np.asarray(labels), probabilities.shape[1]
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    support = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.divide(sums, support, out=np.full(classes, np.inf), where=support > 0)
    others = probabilities.copy()
    others[rows, labels] = -1
    confident = np.where(others >= thresholds, others, -1)
    is_issue = confident.max(-1) > own
    suggested = np.where(is_issue, confident.argmax(-1), others.argmax(-1))
    margin = own - np.maximum(others.max(-1), 0)
    return LabelIssues(np.argsort(margin, kind="stable"), suggested, is_issue, margin)
