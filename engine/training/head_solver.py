"""Solves a phase's head instead of stepping: `optimizer=lbfgs`.

The plain images pass the frozen network once. Their features are standardised, and the solution is
folded back into the dense layer, so that nothing after the phase knows how it was trained.
"""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.text import byte_size
from engine.evaluation.label_errors import assign_folds
from engine.frozen import array_store
from engine.frozen.array_store import ArrayStore
from engine.optim import lbfgs, losses, phase_options
from engine.optim.lbfgs import HeadSolution
from engine.runs.checkpoints import TrainState
from engine.training.metrics import TrainMetrics
from engine.training.phase import PhaseTrainer

UNUSED = ("augment", "dropout", "label_smoothing")  # fields of the recipe
PIECE_BYTES = 2**26  # that are standardised at a time


def solve_head(trainer: PhaseTrainer, state: TrainState) -> None:
    """Solves the head of a phase, in the place of its epoch's steps.

    Raises:
      UserError: features are non-finite, or have no room.
      ShutdownRequested: the run was asked to end; it will solve again.
    """
    job, phase = trainer.job, trainer.phase
    loader, started = job.loader, time.perf_counter()
    unused = [name for name in UNUSED if getattr(job.recipe, name)]
    if unused:
        job.logger.note(f"phase {phase.name}: solves the head without {' and '.join(unused)}")
    features = _allocate(trainer)
    labels = _fill(trainer, features)
    mean, deviation = _standardise(features)
    filled = time.perf_counter()
    options = phase_options.phase_options(phase).optimizer
    folds = options.pop("folds", 5)
    weights = losses.class_weights(job.recipe.class_weights, loader.class_counts)
    solution = lbfgs.solve_head(
        lambda first, stop: features.take(np.zeros(stop - first, int), np.arange(first, stop)),
        labels,
        np.array(weights)[labels],
        len(loader.classes),
        len(mean),
        assign_folds(labels, loader.groups, job.recipe.seed, folds),
        check_stop=job.shutdown.check,
        **options,
    )
    kernel = solution.kernel / deviation[:, None]
    trainer.partition.head.kernel.assign(kernel)
    trainer.partition.head.bias.assign(solution.bias - mean @ kernel)
    seconds = time.perf_counter() - filled
    trainer.metrics.set(TrainMetrics(solution.loss, solution.accuracy, len(labels)))
    trainer.solved = {
        "l2": solution.l2,
        "fold_accuracies": list(solution.fold_accuracies),
        "iterations": solution.iterations,
        "solve_seconds": seconds,
    }
    state.fill_seconds += filled - started
    state.seconds += seconds
    state.step += job.steps_per_epoch
    job.logger.note(f"phase {phase.name}: {_describe(solution, features, seconds)}")


def _allocate(trainer: PhaseTrainer) -> ArrayStore:
    """Returns room for float32 [1, N, features]."""
    [((width,), _)] = trainer.frozen_forward.outputs
    shape = (1, trainer.job.loader.train_examples, width)
    try:
        kind = np.dtype(np.float32)
        return array_store.allocate([(shape, kind)], trainer.job.cache_budget)[0]
    except OSError as error:
        raise UserError(
            f"phase {trainer.phase.name!r}: the features take {byte_size(4 * shape[1] * width)} "
            f"({error}); raise --cache_memory, choose a --cache_dir on a larger disk, or an "
            "optimizer that takes steps"
        ) from None


def _fill(trainer: PhaseTrainer, features: ArrayStore) -> np.ndarray:
    """Fills in the features of all plain training images; returns their labels, int32 [N]."""
    loader = trainer.job.loader
    labels = np.empty(loader.train_examples, np.int32)
    start = 0
    for batch in trainer.job.shutdown.check_each(loader.split_batches("train")):
        count = int(np.asarray(batch.weights).sum())
        [output] = trainer.frozen_forward.plain(batch.inputs)
        rows = np.asarray(tf.cast(output, tf.float32))[:count]
        if not np.isfinite(rows).all():
            bad = start + int(np.argmin(np.isfinite(rows).all(-1)))
            raise UserError(
                f"phase {trainer.phase.name!r}: the features of {loader.example_name(bad)} are NaN "
                "or infinite; train with --precision=float32 or other --weights"
            )
        features.put(0, start, rows)
        labels[start : start + count] = np.asarray(batch.labels)[:count]
        start += count
    return labels


def _standardise(features: ArrayStore) -> tuple[np.ndarray, np.ndarray]:
    """Standardises in place; returns means and deviations, float64 [features].

    A feature that is constant but for rounding becomes 0, with a deviation of 1.
    """
    rows = features.rows[0]
    step = max(1, PIECE_BYTES // rows[0].nbytes)
    pieces = [slice(start, start + step) for start in range(0, len(rows), step)]
    mean = sum(rows[piece].sum(0, dtype=np.float64) for piece in pieces) / len(rows)
    squares = sum(((rows[piece] - mean) ** 2).sum(0) for piece in pieces)
    deviation = np.sqrt(squares / len(rows))
    deviation[deviation <= 1e-6 * np.abs(mean)] = np.inf
    for piece in pieces:
        features.put(0, piece.start, ((rows[piece] - mean) / deviation).astype(np.float32))
    return mean, np.where(np.isinf(deviation), 1.0, deviation)


def _describe(solution: HeadSolution, features: ArrayStore, seconds: float) -> str:
    accuracies = solution.fold_accuracies
    count, width = features.rows.shape[1:]
    line = (
        f"head solved on {count:,} x {width:,} features in {seconds:.1f} s, "
        f"{solution.iterations} iterations, l2={solution.l2:g}"
    )
    if not accuracies:
        return line
    return (
        f"{line} by cross-validation: {np.mean(accuracies):.2%} of held-out images right "
        f"({min(accuracies):.2%} to {max(accuracies):.2%} in {len(accuracies)} folds)"
    )
