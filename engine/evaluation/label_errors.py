"""Training images whose labels are likely wrong, by confident learning.

Each image is classified by a logistic regression trained on the others, from features of the
network as it was before training, because a network that trained on a wrong label has learnt it.

Source: Northcutt, Jiang & Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset
Labels, JAIR 70, sections 3.1 and 3.2.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.frozen import precision, trunk
from engine.frozen.precision import ComputeMode
from engine.models import classifier, freezing
from engine.models.classifier import Classifier

TOLERANCE = 1e-3  # of the largest gradient; on 2,640 groceries 1e-4 changed no issue
MAX_ITERATIONS = 100
FOLDS = 5
MAX_IMAGES = 100_000  # features take about 0.5 GB, and as much again standardised


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
    mode: ComputeMode | None = None,
    deadline: float = math.inf,
) -> LabelCheck:
    """Checks the labels of the training split; images of one group share a fold.

    Args:
      recipe: the run's.
      loader: the run's data.
      trained: the run's network, which is used if there is no pretrained one.
      check_stop: called before each batch and evaluation of the loss; it raises to stop the check.
      mode: in which features are computed; None to measure which is the fastest.
      deadline: by `time.perf_counter`; as many images are examined as fit in the time until then.
    """
    classes = len(loader.classes)
    network, feature_network = _feature_network(recipe, classes, trained)
    total, size = loader.train_examples, recipe.batch_size
    batches = np.random.default_rng(recipe.seed).permutation(-(-total // size))
    numbers = batches[: max(1, MAX_IMAGES // size)].tolist()
    until = deadline - (deadline - time.perf_counter()) / 2 if deadline < math.inf else deadline
    features, labels, examples = extract_features(
        network, recipe, loader, numbers, check_stop, mode, until
    )
    groups = [loader.groups[example] for example in examples] if loader.groups else []
    probabilities = out_of_fold(
        features, labels, classes, groups, recipe.seed, check_stop, deadline
    )
    some = f"{len(examples):,} of {total:,} images were examined"
    return LabelCheck(
        issues=find_label_issues(probabilities, labels),
        examples=examples,
        labels=labels,
        accuracy=float((probabilities.argmax(-1) == labels).mean()),
        feature_network=feature_network,
        note=some if len(examples) < total else "",
    )


def _feature_network(recipe: Recipe, classes: int, trained: Classifier) -> tuple[Classifier, str]:
    fallback = "the trained network, which may have memorised wrong labels"
    if recipe.weights == "none":
        return trained, f"{fallback}: it started from random weights"
    before = f"{recipe.backbone} as it was before training"
    if not recipe.init_from and all(phase.trainable == "head" for phase in recipe.phases):
        return trained, before  # below the head it still is
    try:
        return classifier.build(recipe, classes), before
    except UserError as error:
        return trained, f"{fallback}: {error}"


def extract_features(
    network: Classifier,
    recipe: Recipe,
    loader: DataLoader,
    numbers: list[int] | None = None,
    check_stop: Callable[[], None] = lambda: None,
    mode: ComputeMode | None = None,
    until: float = math.inf,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns pooled features (float32 [N, D]), labels and example numbers, without padding.

    Args:
      network, recipe: the network and what it was built by.
      loader: gives the training split.
      numbers: of the batches in the order in which they are read; None for all.
      check_stop: called before each batch.
      mode: of computing; None to measure which is the fastest within tolerance.
      until: when to end, by `time.perf_counter`, after one batch at least.

    Returns:
      the three, in the order of the example numbers.
    """
    frozen = freezing.partition_model(network, "head").trunk
    compile_mode = functools.cache(functools.partial(trunk.compile_frozen, frozen))
    if mode is None:
        modes = precision.recipe_modes(recipe)
        first = tf.cast(next(iter(loader.split_batches("train", [0]))).inputs, tf.float32)
        trials = precision.run_trials(modes, compile_mode, first) if len(modes) > 1 else []
        mode = precision.choose_trial(trials).mode if trials else modes[0]
    run = compile_mode(mode)
    rows: list[list[np.ndarray]] = []
    for batch in loader.split_batches("train", numbers):
        if rows and time.perf_counter() > until:
            break
        check_stop()
        real = np.asarray(batch.weights) > 0
        features = tf.cast(run(tf.cast(batch.inputs, tf.float32))[0], tf.float32)
        rows.append([np.asarray(x)[real] for x in (features, batch.labels, batch.examples)])
    features, labels, examples = map(np.concatenate, zip(*rows, strict=True))
    order = np.argsort(examples)
    return features[order], labels[order], examples[order]


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    groups: Sequence[str] = (),
    seed: int = 0,
    check_stop: Callable[[], None] = lambda: None,
    deadline: float = math.inf,
) -> np.ndarray:
    """Returns each example's probabilities by a regression on the other folds.

    The prior is so strong that logits are about 1 in size, so that no regression follows the wrong
    labels that it is fitted on. An example whose label does not occur in another fold can't be
    checked; its label gets a probability of 1.

    Args:
      features: [N, D].
      labels: int [N].
      classes: number of classes.
      groups: see `assign_folds`.
      seed: of the assignment to folds.
      check_stop: called before each evaluation of the loss.
      deadline: by `time.perf_counter`; the regressions end there, less far from their start.

    Returns:
      float64 [N, classes].
    """
    from scipy.special import softmax

    features, labels = np.asarray(features, np.float32), np.asarray(labels)
    deviation = features.std(0)
    scaled = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)
    fold_of = assign_folds(labels, groups, seed)
    folds = np.unique(fold_of)
    fitted = fold_of[:, None] != folds
    kernels, biases = _fit_regressions(scaled, labels, classes, fitted, check_stop, deadline)
    probabilities = np.zeros([len(labels), classes])
    for number, fold in enumerate(folds):
        held_out = fold_of == fold
        known = np.isin(np.arange(classes), labels[~held_out])
        if known.any():
            logits = scaled[held_out] @ kernels[:, number] + biases[number]
            probabilities[held_out] = softmax(np.where(known, logits, -np.inf), axis=-1)
        unknown = np.flatnonzero(held_out & ~known[labels])
        probabilities[unknown] = np.eye(classes)[labels[unknown]]
    return probabilities


def _fit_regressions(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    fitted: np.ndarray,
    check_stop: Callable[[], None],
    deadline: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fits one multinomial regression for each fold, all at once, by L-BFGS.

    Args:
      features: float32 [N, D], standardised.
      fitted: bool [N, folds], which examples each is fitted on.

    Returns:
      Kernels, [D, folds, classes], and biases, [folds, classes].
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    width = features.shape[1]
    shares = fitted / np.maximum(fitted.sum(0), 1)
    targets = np.eye(classes)[labels][:, None]
    constants = [tf.constant(array, tf.float32) for array in (features, targets, shares[..., None])]
    step = functools.partial(_loss_and_gradient, *constants)
    decay = np.repeat(width / np.maximum(fitted.sum(0), 1), classes)  # scikit-learn's C = 1 / width
    shape = (width + 1, decay.size)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        check_stop()
        layer = flat.reshape(shape)
        loss, gradient = (tensor.numpy() for tensor in step(tf.constant(layer, tf.float32)))
        gradient = gradient.astype(np.float64)
        gradient[:-1] += decay * layer[:-1]
        return float(loss) + (decay * layer[:-1] ** 2).sum() / 2, gradient.ravel()

    def end_in_time(intermediate_result: Any) -> None:
        if time.perf_counter() > deadline:
            raise StopIteration

    options = {"gtol": TOLERANCE, "ftol": 0, "maxiter": MAX_ITERATIONS}
    start = np.zeros(math.prod(shape))
    with threadpool_limits(1, "blas"):  # idle threads of BLAS would spin beside TensorFlow's
        solved = minimize(
            objective, start, jac=True, method="L-BFGS-B", options=options, callback=end_in_time
        )
    layer = solved.x.reshape(width + 1, -1, classes)
    return layer[:-1], layer[-1]


@tf.function(autograph=False, reduce_retracing=True)
def _loss_and_gradient(
    features: tf.Tensor, targets: tf.Tensor, shares: tf.Tensor, layer: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """features [N, D], targets [N, 1, C], shares [N, F, 1], layer [D + 1, F x C]."""
    folds, classes = tf.shape(shares)[1], tf.shape(targets)[-1]
    logits = tf.reshape(features @ layer[:-1] + layer[-1], [-1, folds, classes])
    logs = tf.nn.log_softmax(logits)
    loss = -tf.reduce_sum(logs * targets * shares)
    errors = tf.reshape((tf.exp(logs) - targets) * shares, [-1, folds * classes])
    of_kernel = tf.matmul(features, errors, transpose_a=True)
    return loss, tf.concat([of_kernel, tf.reduce_sum(errors, 0)[None]], 0)


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
