"""Which labels of the training images are likely wrong: confident learning.

Each image is classified by a simple classifier that was trained on the others, from features of
the network as it was before training: one that has trained on a wrong label has learnt it.

Source: Northcutt, Jiang & Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset
Labels, JAIR 70, sections 3.1 and 3.2.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.frozen import precision, trunk
from engine.models import classifier, freezing
from engine.models.classifier import Classifier

# Directions of the features that are kept, those in which images differ most. Among 2,000 cats
# and dogs, 40 of them mislabelled, all 1,280 found no more of these, and took far longer.
DIRECTIONS = 512
ITERATIONS = 100
MOST = 100_000  # images; their features are 0.5 GB or so, and once more while they are reduced

NONE = -1  # in the place of a suggested class


@dataclasses.dataclass(frozen=True)
class LabelIssues:
    """What is thought of N labels.

    order: int64 [N], the examples, those with the likeliest wrong labels first.
    suggested: int64 [N], of each example another class, the one that its label might rather be.
    wrong: bool [N], whether the label is thought wrong: that class is likelier than the label, and
      as likely as it is, on average, for the images that bear its label.
    margin: float64 [N], -1 to 1, the label's probability less that of the likeliest other class.
    """

    order: np.ndarray
    suggested: np.ndarray
    wrong: np.ndarray
    margin: np.ndarray


@dataclasses.dataclass(frozen=True)
class LabelCheck:
    """The labels of a feed's training part, by example number.

    accuracy: the share of labels that the simple classifier gives too; of the images looked at.
    features_of: which network's features it went by, in words.
    note: in words how many images were looked at, where not all. The others stand last in the
      order, with a margin of 1, and NONE is suggested for them.
    """

    suspects: LabelIssues
    accuracy: float
    features_of: str
    note: str = ""


def check(
    recipe: Recipe,
    loader: DataLoader,
    trained: Classifier,
    between: Callable[[], None] = lambda: None,
) -> LabelCheck:
    """Checks the labels of the training part. Images of one group do not vouch for each other.

    Args:
      trained: the run's network, which serves where there is no pretrained one.
      between: called before each batch and each fold; what it raises ends the check.
    """
    network, features_of = _network(recipe, len(loader.classes), trained)
    which = _batches(loader.train_examples, recipe.batch_size)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    features = pooled_features(
        forward(network, recipe, loader),
        _noted(loader.split_batches("train", which), seen, between),
    )
    labels, examples = (np.concatenate(column) for column in zip(*seen, strict=True))
    groups = [loader.groups[example] for example in examples] if loader.groups else None
    chances = out_of_fold(
        features, labels, len(loader.classes), groups=groups, seed=recipe.seed, between=between
    )
    accuracy = float((chances.argmax(-1) == labels).mean())
    found, note = find_label_issues(chances, labels), ""
    if which is not None:
        found = _among(found, examples, loader.train_examples)
        note = f"{len(examples):,} of {loader.train_examples:,} images were looked at"
    return LabelCheck(found, accuracy, features_of, note)


def _network(recipe: Recipe, classes: int, trained: Classifier) -> tuple[Classifier, str]:
    """The one whose features serve, and what it is."""
    mine = "the trained network, which may have learnt wrong labels by heart"
    if recipe.weights == "none":
        return trained, f"{mine}: it began with random weights"
    try:
        made = classifier.build(recipe, classes)
    except UserError as error:
        return trained, f"{mine}: {error}"
    return made, f"{recipe.backbone} as it was before training"


def _batches(examples: int, size: int) -> list[int] | None:
    """The numbers of the batches that are looked at, spread evenly; None for all."""
    if examples <= MOST:
        return None
    return np.linspace(0, -(-examples // size) - 1, MOST // size).astype(int).tolist()


def _noted(batches: Iterable[Batch], seen: list, between: Callable[[], None]) -> Iterator[Batch]:
    """The batches; labels and numbers of their examples are added to `seen`."""
    for batch in batches:
        between()
        real = np.asarray(batch.weights) > 0
        seen.append((np.asarray(batch.labels)[real], np.asarray(batch.examples)[real]))
        yield batch


def forward(network: Classifier, recipe: Recipe, loader: DataLoader) -> Callable[[Any], tf.Tensor]:
    """uint8 [B, H, W, 3] -> pooled features [B, D], in the precision that is fastest here."""
    frozen = freezing.partition_model(network, "head").trunk
    make = functools.cache(functools.partial(trunk.specialise, frozen))
    programs = precision.candidates(recipe)
    if len(programs) > 1:
        first = next(iter(loader.split_batches("train", [0])))
        done = precision.trials(programs, make, tf.cast(first.inputs, tf.float32))
        programs = [precision.best(done).program]
    run = make(programs[0])
    return lambda images: run(tf.cast(images, tf.float32))[0]


def pooled_features(forward: Callable[[Any], tf.Tensor], batches: Iterable[Batch]) -> np.ndarray:
    """float32 [N, D]: what `forward` makes of each example's image; fillings are left out."""
    rows = []
    for batch in batches:
        real = np.asarray(batch.weights) > 0
        rows.append(tf.cast(forward(batch.inputs), tf.float32).numpy()[real])
    return np.concatenate(rows)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """What a logistic regression on the other folds says of each example; float64 [N, classes].

    An example whose label no example of another fold bears can't be judged: its label is taken for
    certain.

    Args:
      features: [N, D]. labels: int [N].
      groups: of each example, '' for none; examples of one group share a fold.
      between: called before each fold.
    """
    labels, reduced = np.asarray(labels), _reduced(features)
    fold_of = _folds(labels, groups, folds, seed)
    chances = np.zeros([len(labels), classes])
    for fold in np.unique(fold_of):
        between()
        mine = fold_of == fold
        known = np.unique(labels[~mine])
        if len(known) > 1:
            fitted = _regression(reduced[~mine], labels[~mine], features.shape[1])
            chances[np.ix_(mine, fitted.classes_)] = fitted.predict_proba(reduced[mine])
        else:
            chances[np.ix_(mine, known)] = 1
        unknown = np.flatnonzero(mine & ~np.isin(labels, known))
        chances[unknown] = np.eye(classes)[labels[unknown]]
    return chances


def _reduced(features: np.ndarray) -> np.ndarray:
    """Standardised features along the DIRECTIONS in which they vary most, float32 [N, ≤ D]."""
    features = np.asarray(features, np.float32)
    deviation = features.std(0)
    scaled = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)
    directions = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1]  # of the largest variance first
    return scaled @ directions[:, :DIRECTIONS]


def _regression(features: np.ndarray, labels: np.ndarray, width: int) -> Any:
    """With a normal prior of such weights that logits of `width` features are about 1 in size.

    Wrong labels among those that are learnt from are not followed.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is near enough by then
        return LogisticRegression(C=1 / width, max_iter=ITERATIONS).fit(features, labels)


def _folds(labels: np.ndarray, groups: Sequence[str] | None, folds: int, seed: int) -> np.ndarray:
    """The fold of each example, int [N]: classes are spread evenly, groups stay together.

    scikit-learn's own splitters refuse classes with fewer examples than there are folds.
    """
    numbers = np.arange(len(labels))
    unit = numbers
    if groups is not None:
        names = np.asarray(groups, str)
        unit = np.where(names == "", -1 - numbers, np.unique(names, return_inverse=True)[1])
    _, first, unit = np.unique(unit, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(labels[first][order], kind="stable")]
    fold_of = np.empty(len(first), int)
    fold_of[order] = np.arange(len(first)) % folds
    return fold_of[unit]


def find_label_issues(chances: np.ndarray, labels: np.ndarray) -> LabelIssues:
    """chances: probabilities [N, classes], each from a classifier that has not learnt from it.

    labels: int [N]. A class is at home where it is as likely as it is, on average, for those that
    bear its label (the paper's confident joint); the order is that of the normalised margin.
    """
    labels, count = np.asarray(labels), chances.shape[1]
    rows = np.arange(len(labels))
    own = chances[rows, labels]
    bearing = np.bincount(labels, minlength=count)
    sums = np.bincount(labels, weights=own, minlength=count)
    usual = np.divide(sums, bearing, out=np.full(count, np.inf), where=bearing > 0)
    others = chances.copy()
    others[rows, labels] = -1
    at_home = np.where(others >= usual, others, -1)
    wrong = at_home.max(-1) > own
    suggested = np.where(wrong, at_home.argmax(-1), others.argmax(-1))
    margin = own - np.maximum(others.max(-1), 0)
    return LabelIssues(np.argsort(margin, kind="stable"), suggested, wrong, margin)


def _among(found: LabelIssues, examples: np.ndarray, count: int) -> LabelIssues:
    """What was found of some examples, put among all `count`."""
    suggested, wrong, margin = np.full(count, NONE), np.zeros(count, bool), np.ones(count)
    for whole, part in ((suggested, found.suggested), (wrong, found.wrong), (margin, found.margin)):
        whole[examples] = part
    rest = np.setdiff1d(np.arange(count), examples)
    return LabelIssues(np.concatenate([examples[found.order], rest]), suggested, wrong, margin)
