"""The story of a run, read from top to bottom.

train
  take up the newest checkpoint, or begin
  for each phase              split at its boundary, fresh optimizer, one compiled step
    for each epoch
      for each batch          bytes -> uint8 -> augment -> trunk -> tail -> update
      evaluate                every validation example once
      best?  stop early?      the best model is kept apart
      checkpoint              a run that is killed goes on from here, bit for bit
    check what moved
  test                        once, with the best model
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from engine import audit, checkpoints, freezing, losses, optimizers, recipes, results, steps
from engine.checkpoints import Progress
from engine.classifier import Classifier
from engine.evaluation import Evaluation, evaluate
from engine.metrics import Figures, Totals
from engine.rundir import RunDir
from engine.specs import Batch, Feed, Phase, Recipe, UserError
from engine.watching import Moment, Watch


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a run needs. augment is a `pipelines.augment.Augmentation`."""

    recipe: Recipe
    classifier: Classifier
    feed: Feed
    augment: Any
    run: RunDir
    watch: Watch
    checkpoint_minutes: float = 10.0
    log_steps: int = 10

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.feed.train_examples // self.recipe.batch_size)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A phase made ready: what it trains, with what, and the batches that it has yet to see."""

    phase: Phase
    split: freezing.Split
    optimizer: Any
    totals: Totals
    step: Callable[[Batch, tf.Tensor], None]
    rate: Callable[[int], float]
    batches: Iterator[Batch]
    first_step: int
    audit: audit.Audit


def train(job: Job) -> dict[str, Any]:
    """Trains all phases, from the newest checkpoint where there is one; gives `result.json`.

    Raises:
      UserError: the loss is no longer a number, or a checkpoint is of another model.
    """
    clock = results.Clock()
    progress, saved = checkpoints.load(job.run)
    model = job.classifier.model
    if saved:
        checkpoints.restore(model.weights, saved["model"], str(job.run.checkpoints))
        job.watch.note(f"going on from step {progress.step} of {job.run.path}")
    eval_step = steps.make_eval_step(model)
    for phase in job.recipe.phases[progress.phase :]:
        stage = begin(job, phase, progress, saved)
        saved = {}
        while progress.epoch < phase.epochs and not _tired(phase, progress):
            train_epoch(job, stage, progress, clock)
            evaluation = _validate(job, eval_step, progress)
            _record(job, stage, progress, evaluation)
            _save(job, stage, progress, clock)
        _finish(job, stage, progress)
    return results.conclude(job, progress, eval_step, clock)


def begin(job: Job, phase: Phase, progress: Progress, saved: dict) -> Stage:
    """Splits the model for a phase, builds optimizer and step, and restores what was saved."""
    recipe, feed = job.recipe, job.feed
    split = freezing.split(job.classifier, phase.trainable)
    scale_loss = recipe.precision == "mixed_float16"
    optimizer = optimizers.build(
        phase, recipes.options(phase).optimizer, split.variables, scale_loss
    )
    totals = Totals()
    weights = losses.class_weights(recipe.class_weights, feed.class_counts)
    step = steps.make_train_step(recipe, phase, split, optimizer, job.augment, weights, totals)
    if saved:
        checkpoints.restore(
            optimizer.variables, saved.get("optimizer", []), str(job.run.checkpoints)
        )
        totals.sums.assign(saved["totals"][0])
    stop = progress.phase_start + phase.epochs * job.steps_per_epoch
    return Stage(
        phase=phase,
        split=split,
        optimizer=optimizer,
        totals=totals,
        step=step,
        rate=recipes.rate(phase, job.steps_per_epoch),
        batches=iter(feed.train(progress.step, stop)),
        first_step=progress.step,
        audit=audit.Audit(job.classifier.model, split, phase),
    )


def train_epoch(job: Job, stage: Stage, progress: Progress, clock: results.Clock) -> None:
    """The steps that are left of the current epoch."""
    stop = progress.phase_start + (progress.epoch + 1) * job.steps_per_epoch
    while progress.step < stop:
        asked = time.perf_counter()
        batch = next(stage.batches)
        got = time.perf_counter()
        rate = stage.rate(progress.step - progress.phase_start)
        stage.step(batch, tf.constant(rate, tf.float32))
        tf.test.experimental.sync_devices()  # else the wait for the device would count as data's
        progress.step += 1
        progress.wait_seconds += got - asked
        progress.seconds += time.perf_counter() - asked
        clock.stepped()
        if progress.step % job.log_steps == 0:
            _log(job, stage, progress, rate)
        if clock.since_save() > 60 * job.checkpoint_minutes:
            _save(job, stage, progress, clock)


def _log(job: Job, stage: Stage, progress: Progress, rate: float) -> None:
    """Shows the epoch's figures so far."""
    figures = _figures(stage, progress)
    done = progress.step - progress.phase_start
    job.watch.step(
        Moment(
            phase=stage.phase,
            epoch=progress.epoch + 1,
            step=progress.step,
            step_of_epoch=done - progress.epoch * job.steps_per_epoch,
            steps_per_epoch=job.steps_per_epoch,
            steps_left=stage.phase.epochs * job.steps_per_epoch - done,
            batch_size=job.recipe.batch_size,
            loss=figures.loss,
            accuracy=figures.accuracy,
            learning_rate=rate,
            images_per_second=figures.examples / progress.seconds,
            wait_fraction=progress.wait_seconds / progress.seconds,
        )
    )


def _figures(stage: Stage, progress: Progress) -> Figures:
    """The epoch's figures so far, fetched from the device."""
    figures = stage.totals.read()
    if math.isfinite(figures.loss):
        return figures
    place = f"phase {stage.phase.name!r}, epoch {progress.epoch + 1}, up to step {progress.step}"
    raise UserError(
        f"{place}: the loss is {figures.loss}; lower the phase's learning_rate "
        f"({stage.phase.learning_rate:g}) or give it clip_norm=1, with --overwrite"
    )


def _validate(job: Job, eval_step: Callable, progress: Progress) -> Evaluation:
    started = time.perf_counter()
    evaluation = evaluate(eval_step, job.feed.validation(), len(job.feed.classes))
    progress.eval_seconds = time.perf_counter() - started
    return evaluation


def _record(job: Job, stage: Stage, progress: Progress, evaluation: Evaluation) -> None:
    """Closes an epoch: its row of history, the best model, the patience."""
    figures = _figures(stage, progress)
    progress.epoch += 1
    row = {
        "phase": stage.phase.name,
        "epoch": progress.epoch,
        "step": progress.step,
        "train_loss": figures.loss,
        "train_accuracy": figures.accuracy,
        "val_loss": evaluation.loss,
        "val_accuracy": evaluation.accuracy,
        "learning_rate": stage.rate(progress.step - progress.phase_start - 1),
        "images_per_second": figures.examples / progress.seconds,
        "data_wait_fraction": progress.wait_seconds / progress.seconds,
        "seconds": progress.seconds + progress.eval_seconds,
    }
    progress.history.append(row)
    stage.totals.reset()
    progress.seconds = progress.wait_seconds = progress.eval_seconds = 0.0
    if stage.phase.early_stop:
        better = progress.best_loss is None or evaluation.loss < progress.best_loss
        progress.stale = 0 if better else progress.stale + 1
        progress.best_loss = evaluation.loss if better else progress.best_loss
    if progress.best is None or results.rank(row) > results.rank(progress.best):
        progress.best = results.standing(row)
        results.save_model(job, progress.best)
    results.write_history(job.run, job.recipe, progress.history)
    job.watch.epoch(row, evaluation, best=progress.best == results.standing(row))


def _tired(phase: Phase, progress: Progress) -> bool:
    return phase.early_stop is not None and progress.stale >= phase.early_stop


def _save(job: Job, stage: Stage, progress: Progress, clock: results.Clock) -> None:
    clock.saved(progress)
    variables = {
        "model": job.classifier.model.weights,
        "optimizer": stage.optimizer.variables,
        "totals": [stage.totals.sums],
    }
    checkpoints.save(job.run, progress, variables)


def _finish(job: Job, stage: Stage, progress: Progress) -> None:
    """Checks what the phase moved, notes what it did, and makes way for the next."""
    for line in stage.audit.check(trained=progress.step > stage.first_step):
        job.watch.note(line)
    result = results.phase_result(job, stage, progress)
    if result.get("skipped_steps"):
        job.watch.note(f"{result['skipped_steps']} steps were skipped: float16 overflowed")
    progress.phases.append(result)
    progress.phase += 1
    progress.epoch, progress.stale, progress.best_loss = 0, 0, None
    progress.phase_start = progress.step
