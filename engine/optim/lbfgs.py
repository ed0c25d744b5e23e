"""Solves a dense softmax layer on fixed features: multinomial logistic regression, by L-BFGS.

The objective is the weighted mean cross entropy plus l2 / 2 times the sum of the kernel's squares;
the bias is free. In scikit-learn's terms l2 is 1 / (C x the sum of the examples' weights). The
penalty is chosen by cross-validation on a path from strong to weak, each solution the start of the
next, which ends once the held-out loss rises. The regressions of the folds and of all examples are
one separable problem: features are read once for all of them.

Source of the minimiser: Byrd, Lu, Nocedal & Zhu 1995, A Limited Memory Algorithm for Bound
Constrained Optimization, as scipy.optimize has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

Accuracy = tuple[type[np.floating], float]
# scikit-learn's C, from a strong penalty to a weak one. Features of cats and dogs had the lowest
# held-out loss at 0.01, of 81 classes of groceries between 0.1 and 1.
PATH = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
FALLBACK = 1e-2  # where nothing can be held out
# Type of the arithmetic, and the largest absolute gradient that a solution may have. In float32 the
# loss is too rough to come closer.
ON_PATH: Accuracy = (np.float32, 3e-4)
FINAL: Accuracy = (np.float64, 1e-6)
MAX_ITERATIONS = 1000
PIECE_BYTES = 2**26  # of features and logits that are computed at a time
MAX_COLUMNS = 1024  # classes x regressions that are solved together

ReadRows = Callable[[int, int], np.ndarray]  # start, stop -> standardised float32 [n, features]


@dataclasses.dataclass(frozen=True)
class HeadSolution:
    """A solved layer: logits = features @ kernel + bias.

    Attributes:
      kernel: float64 [features, classes], for standardised features. bias: float64 [classes].
      l2: the penalty that was requested or chosen.
      fold_accuracies: of the held-out examples of each fold at this penalty; empty where l2 was
        requested or nothing could be held out.
      loss: weighted mean cross entropy of the training examples, in nats. accuracy: theirs.
      iterations: of L-BFGS, over the whole path.
    """

    kernel: np.ndarray
    bias: np.ndarray
    l2: float
    fold_accuracies: tuple[float, ...]
    loss: float
    accuracy: float
    iterations: int


def solve_head(
    read: ReadRows,
    labels: np.ndarray,
    weights: np.ndarray,
    classes: int,
    features: int,
    fold_of: np.ndarray,
    l2: float = 0.0,
    check_stop: Callable[[], None] = lambda: None,
) -> HeadSolution:
    """Fits the layer to all examples.

    Args:
      labels: int [N]. weights: float [N], of each example in the loss, above 0.
      fold_of: int [N], the fold in which each example is held out.
      l2: the penalty; 0 chooses it by cross-validation.
      check_stop: called before each evaluation; it raises to stop.
    """
    problem = _Problem(read, labels, weights, classes, features, check_stop)
    choice = (l2, (), problem.start())
    l2, accuracies, start = choice if l2 else _choose_l2(problem, fold_of)
    everything = np.ones([len(labels), 1])
    solution = problem.minimize(start, everything, l2, FINAL)
    losses, correct, _ = problem.evaluate(solution, everything)
    shares = problem.weights / problem.weights.sum()
    return HeadSolution(
        kernel=solution[:-1],
        bias=solution[-1],
        l2=l2,
        fold_accuracies=accuracies,
        loss=float(losses[:, 0] @ shares),
        accuracy=float(correct.mean()),
        iterations=problem.iterations,
    )


def _choose_l2(
    problem: _Problem, fold_of: np.ndarray
) -> tuple[float, tuple[float, ...], np.ndarray]:
    """Returns the penalty of the lowest held-out loss, its accuracies by fold, and its layer.

    Held-out examples of a class that their fold is not trained on are left out.
    """
    labels, classes = problem.labels, problem.classes
    held_out = fold_of[:, None] == np.unique(fold_of)
    known = np.stack([np.isin(labels, labels[~column]) for column in held_out.T], 1)
    scored = held_out & known
    folds = np.flatnonzero(scored.any(0))
    start, total = problem.start(), problem.weights.sum()
    if not len(folds):
        return 1 / (FALLBACK * total), (), start
    held_out, scored = held_out[:, folds], scored[:, folds]
    masks = np.concatenate([~held_out, np.ones([len(labels), 1], bool)], 1)
    size = max(1, MAX_COLUMNS // classes)
    groups = [range(masks.shape[1])[at : at + size] for at in range(0, masks.shape[1], size)]
    layers = [np.tile(start, len(group)) for group in groups]
    lowest, best = np.inf, (1 / (PATH[0] * total), (), start)
    for l2 in (1 / (strength * total) for strength in PATH):
        losses, correct = np.empty(masks.shape), np.empty(masks.shape)
        for number, group in enumerate(groups):
            layer = problem.minimize(layers[number], masks[:, group], l2, ON_PATH)
            losses[:, group], correct[:, group], _ = problem.evaluate(layer, masks[:, group])
            layers[number] = layer
        shares = scored * problem.weights[:, None]
        loss = (losses[:, :-1] * shares).sum() / shares.sum()
        accuracies = tuple(((correct[:, :-1] * scored).sum(0) / scored.sum(0)).tolist())
        if not loss < lowest:
            break
        lowest, best = loss, (l2, accuracies, layers[-1][:, -classes:])
    return best


class _Problem:
    """Weighted regressions on the same examples."""

    def __init__(
        self,
        read: ReadRows,
        labels: np.ndarray,
        weights: np.ndarray,
        classes: int,
        features: int,
        check_stop: Callable[[], None],
    ) -> None:
        self.read, self.check_stop = read, check_stop
        self.labels, self.weights = np.asarray(labels, np.int32), np.asarray(weights, np.float64)
        self.classes, self.features = classes, features
        self.iterations = 0

    def start(self) -> np.ndarray:
        """Returns the layer that predicts each class's share of the weights."""
        layer = np.zeros([self.features + 1, self.classes])
        layer[-1] = np.log(np.bincount(self.labels, self.weights, self.classes))
        layer[-1] -= layer[-1].mean()
        return layer

    def minimize(
        self, start: np.ndarray, masks: np.ndarray, l2: float, accuracy: Accuracy
    ) -> np.ndarray:
        """Solves P regressions, from float64 [features + 1, P x classes] to the same.

        The last row is the bias. masks: [N, P], 1 for the examples of each regression, 0 for none.
        """
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits

        dtype, tolerance = accuracy
        shares = self.weights[:, None] * masks
        shares /= shares.sum(0)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            layer = flat.reshape(start.shape)
            losses, _, gradient = self.evaluate(layer, shares, dtype)
            gradient[:-1] += l2 * layer[:-1]
            penalty = l2 / 2 * (layer[:-1] ** 2).sum()
            return float((losses * shares).sum() + penalty), gradient.ravel()

        options = {"maxiter": MAX_ITERATIONS, "gtol": tolerance, "ftol": 1e-12}
        with threadpool_limits(1, "blas"):  # idle threads of BLAS would spin beside TensorFlow's
            solution = minimize(
                objective, start.ravel(), jac=True, method="L-BFGS-B", options=options
            )
        self.iterations += solution.nit
        return solution.x.reshape(start.shape)

    def evaluate(
        self, layer: np.ndarray, shares: np.ndarray, dtype: type[np.floating] = np.float32
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns losses and hits [N, P], and the gradient of the sum of losses by share."""
        self.check_stop()
        kernel, bias = layer[:-1].astype(dtype), layer[-1].astype(dtype)
        count = len(self.labels)
        step = max(1, PIECE_BYTES // (4 * (self.features + 3 * layer.shape[1])))
        losses, correct = np.empty(shares.shape), np.empty(shares.shape)
        gradient = np.zeros(layer.shape)
        for start in range(0, count, step):
            stop = min(start + step, count)
            piece = slice(start, stop)
            columns = self.read(start, stop), self.labels[piece], shares[piece].astype(dtype)
            outputs = _losses_and_gradient(*columns, kernel, bias)
            losses[piece], correct[piece], piece_gradient = (tensor.numpy() for tensor in outputs)
            gradient += piece_gradient
        return losses, correct, gradient


@tf.function(autograph=False, reduce_retracing=True)
def _losses_and_gradient(
    features: tf.Tensor, labels: tf.Tensor, shares: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """features [n, F], labels [n], shares [n, P], kernel [F, P x C], bias [P x C].

    Returns losses and hits [n, P], and the gradient of the sum of losses by share, [F + 1, P x C].
    """
    count, regressions = tf.unstack(tf.shape(shares))
    features = tf.cast(features, kernel.dtype)
    logits = tf.reshape(features @ kernel + bias, [count, regressions, -1])
    logs = tf.nn.log_softmax(logits)
    targets = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)[:, None]
    losses = -tf.reduce_sum(logs * targets, -1)
    hits = tf.argmax(logits, -1, tf.int32) == labels[:, None]
    errors = tf.reshape((tf.exp(logs) - targets) * shares[..., None], [count, -1])
    gradient = tf.concat(
        [tf.matmul(features, errors, transpose_a=True), tf.reduce_sum(errors, 0)[None]], 0
    )
    return losses, hits, gradient
