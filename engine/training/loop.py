"""The training loop, from top to bottom.

train
  resume from the newest checkpoint, or start
  for each phase              partition, precision, feature cache, optimizer, compiled step
    for each epoch
      fill                    the cached trunk outputs that the epoch reads
      for each batch          bytes -> uint8 -> augment -> trunk -> tail -> update
      or solve                the head alone, on cached trunk outputs (optimizer=lbfgs)
      evaluate                every validation example once
      best?  stop early?      the best model is stored apart
      checkpoint              a killed run resumes from it, bit for bit
    check what moved
  test                        once, with the best model
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.recipe import Phase
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.loggers.base import StepMetrics
from engine.optim.optimizers import SOLVER
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, model_score, rank
from engine.runs.checkpoints import TrainState
from engine.runs.lock import RunLock
from engine.runs.retrying_writer import RetryingWriter
from engine.runtime import background, hardware
from engine.runtime.profiler import Profiler
from engine.runtime.shutdown import ShutdownRequested
from engine.training.batch_prefetcher import BatchPrefetcher
from engine.training.batchnorm_check import BatchNormCheck, check_batchnorm
from engine.training.budget import TimeBudget
from engine.training.checkpoint_writer import CheckpointWriter
from engine.training.head_solver import solve_head
from engine.training.job import TrainJob
from engine.training.nan_recovery import NanRecovery, NonFiniteLossError
from engine.training.phase import PhaseTrainer
from engine.training.results import (
    FinalEvaluation,
    epoch_row,
    evaluate_final_model,
    phase_result,
)


def train(job: TrainJob) -> FinalEvaluation:
    """Trains all phases, from the newest checkpoint where there is one.

    Raises:
      UserError: the loss is non-finite and the run does not recover, or a checkpoint is of another
        model or of other images.
      ShutdownRequested: the run was asked to end; it is saved.
    """
    trainer = Trainer(job)
    with job.shutdown.deferred(), contextlib.closing(trainer.profiler):
        while True:
            try:
                return trainer.train()
            except NonFiniteLossError as error:
                trainer.state, trainer.arrays = trainer.nan_recovery.roll_back(error)


class Trainer:
    """A run at work.

    Attributes:
      state: how far it has come.
      arrays: the groups of arrays to continue from, emptied once in use.
    """

    def __init__(self, job: TrainJob) -> None:
        self.job = job
        self.state, self.arrays = checkpoints.load(job.run, job.logger.note)
        for stage, seconds in job.spent.items():
            self.state.spend(stage, seconds)
        initial_weights = {}
        if not self.arrays:
            initial_weights = {"model": [v.numpy() for v in job.classifier.model.weights]}
            self.arrays = dict(initial_weights)
        self.best = BestModel(job.run, job.loader.classes)
        self.profiler = Profiler(job.profile_steps, job.run.path, job.logger.note)
        writer = RetryingWriter(
            job.lock or RunLock(job.run), job.recipe, job.logger.note, job.shutdown
        )
        self.nan_recovery = NanRecovery(job, writer, initial_weights)
        self.checkpoint_writer = CheckpointWriter(job, writer, self.best, self.nan_recovery)
        self.budget = TimeBudget(job, self.state)
        self._seconds_to_first_step: float | None = None  # of this process

    def train(self) -> FinalEvaluation:
        """Trains the phases that are left, and evaluates the best model."""
        job, state = self.job, self.state
        self._restore()
        for phase in job.recipe.phases[state.phase :]:
            if phase.epochs and self._is_worth_while(phase):
                self._train_phase(phase)  # in a call of its own, which frees the phase's caches
            else:
                state.phase += 1
        self.profiler.end_run(state.step)
        with state.timed("final_seconds"):
            final = evaluate_final_model(job, state, self.best)
        self.checkpoint_writer.record_seconds(state)
        final.result["seconds_to_first_step"] = self._seconds_to_first_step
        final.result["seconds_total"] = state.total_seconds
        self.checkpoint_writer.finish(state, final.result)
        job.logger.end(final.result)
        return final

    def _is_worth_while(self, phase: Phase) -> bool:
        """Whether a phase finds errors to remove, and time; one that was begun continues."""
        job, state, share = self.job, self.state, phase.skip_if_solved
        if state.step > state.phase_start:
            return True
        if share is None or not state.history:
            return self.budget.start_phase(phase, state)
        accuracy = max(row["val_accuracy"] for row in state.history)
        counts = job.loader.class_counts
        solved = 1 - accuracy <= (1 - share) * (1 - max(counts) / sum(counts))
        if solved:
            job.logger.note(
                f"phase {phase.name}: skipped, since {accuracy:.2%} on validation leaves it little "
                f"to gain (skip_if_solved={share:g})"
            )
        return not solved and self.budget.start_phase(phase, state)

    def _restore(self) -> None:
        run, state = self.job.run, self.state
        checkpoints.require_same_dataset(run, state, self.job.loader.identity)
        weights = self.arrays.pop("model", [])
        checkpoints.restore(self.job.classifier.model.weights, weights, str(run.checkpoints))
        self.best.resume(state)
        if self.arrays:
            self.job.logger.note(f"resuming {run.path} at step {state.step}")

    def _train_phase(self, phase: Phase) -> None:
        job, state, length = self.job, self.state, self.job.steps_per_epoch
        with state.timed("compile_seconds"):
            trainer = PhaseTrainer(job, phase, state, self.arrays, self.nan_recovery.events)
        self.arrays.clear()
        prefetcher = BatchPrefetcher(trainer, length, state.phase_start + phase.epochs * length)
        try:
            with contextlib.closing(prefetcher):
                while not phase_over(trainer, state):
                    self._train_epoch(trainer, prefetcher)
                    if self.checkpoint_writer.due_after_epoch(last=phase_over(trainer, state)):
                        self.checkpoint_writer.save(trainer, state)
            if phase is [other for other in job.recipe.phases if other.epochs][-1]:
                self.checkpoint_writer.retry(trainer, state)
        except ShutdownRequested as error:
            self.checkpoint_writer.save_on_shutdown(trainer, state, error)
            raise
        self._end_phase(trainer)

    def _train_epoch(self, trainer: PhaseTrainer, prefetcher: BatchPrefetcher) -> None:
        job, state = self.job, self.state
        epoch_end = state.phase_start + (state.epoch + 1) * job.steps_per_epoch
        if trainer.features and state.step < epoch_end:
            started = time.perf_counter()
            with background.paused():
                epoch = state.step // job.steps_per_epoch
                trainer.features.fill(epoch, job.shutdown.check)
            state.fill_seconds += time.perf_counter() - started
        if trainer.phase.optimizer == SOLVER and state.step < epoch_end:
            with background.paused():
                solve_head(trainer, state)
        while state.step < epoch_end:
            job.shutdown.check()
            self._run_steps(trainer, prefetcher)
        self.nan_recovery.require_finite(trainer, state)
        started = time.perf_counter()
        with trainer.average.evaluated():
            evaluation = self._evaluate(trainer)
            state.eval_seconds = time.perf_counter() - started
            self._end_epoch(trainer, evaluation)

    def _evaluate(self, trainer: PhaseTrainer) -> Evaluation:
        batches, classes = trainer.validation_batches(), len(self.job.loader.classes)
        return evaluate(trainer.eval_step, batches, classes)

    def _run_steps(self, trainer: PhaseTrainer, prefetcher: BatchPrefetcher) -> None:
        """Runs one execution of the compiled step, which may be several steps."""
        state, first = self.state, self.state.step
        self.profiler.before_step(first)
        requested = time.perf_counter()
        batch = prefetcher.next(first)
        received = time.perf_counter()
        phase_step = first - state.phase_start
        rates = [trainer.rate(phase_step + index) for index in range(batch.labels.shape[0])]
        trainer.step(batch, tf.constant(rates, tf.float32))
        tf.test.experimental.sync_devices()  # else the wait for the device would count as data's
        done = time.perf_counter()
        state.step += len(rates)
        state.wait_seconds += received - requested
        state.seconds += done - requested
        self._seconds_to_first_step = self._seconds_to_first_step or hardware.process_seconds()
        self.profiler.after_step(state.step)
        if state.step // self.job.log_every_steps > first // self.job.log_every_steps:
            self._log(trainer, rates[-1])
        if self.checkpoint_writer.due():
            self.checkpoint_writer.save(trainer, state)
        trainer.steps_per_execution.record(done - received)

    def _log(self, trainer: PhaseTrainer, learning_rate: float) -> None:
        """Logs the metrics of the epoch so far."""
        job, state = self.job, self.state
        metrics = self.nan_recovery.read_metrics(trainer, state)
        phase_step = state.step - state.phase_start
        phase = dataclasses.replace(trainer.phase, epochs=trainer.epochs(state.epoch))
        job.logger.step(
            StepMetrics(
                phase=phase,
                epoch=state.epoch + 1,
                step=state.step,
                step_of_epoch=phase_step - state.epoch * job.steps_per_epoch,
                steps_per_epoch=job.steps_per_epoch,
                steps_left=phase.epochs * job.steps_per_epoch - phase_step,
                batch_size=job.recipe.batch_size,
                loss=metrics.loss,
                accuracy=metrics.accuracy,
                learning_rate=learning_rate,
                images_per_second=metrics.examples / state.seconds,
                wait_fraction=state.wait_seconds / state.seconds,
            )
        )

    def _end_epoch(self, trainer: PhaseTrainer, evaluation: Evaluation) -> None:
        """Adds the epoch to the history; updates the best model and early stopping."""
        job, state = self.job, self.state
        metrics = self.nan_recovery.read_metrics(trainer, state)
        state.epoch += 1
        row = epoch_row(trainer, state, metrics, evaluation)
        state.history.append(row)
        trainer.average.end_epoch(row)
        trainer.metrics.reset()
        state.end_epoch()
        improved = evaluation.loss < (math.inf if state.best_loss is None else state.best_loss)
        state.stale = 0 if improved else state.stale + 1
        state.best_loss = evaluation.loss if improved else state.best_loss
        if self._keep_if_best(row) and trainer.phase.trainable == "head":
            state.head_right = np.packbits(evaluation.right).tobytes().hex()
        self.checkpoint_writer.save_history(state)
        self.budget.end_epoch(trainer.plans, trainer.phase, state)
        job.logger.epoch(row, evaluation, best=state.best == model_score(row))

    def _keep_if_best(self, row: dict[str, Any]) -> bool:
        if self.state.best is not None and rank(row) <= rank(self.state.best):
            return False
        self.state.best = model_score(row)
        self.best.replace(self.job.classifier.model.weights)
        return True

    def _end_phase(self, trainer: PhaseTrainer) -> None:
        """Checks what the phase moved, records its result and moves on to the next."""
        job, state, phase = self.job, self.state, trainer.phase
        average = trainer.average.end_phase(lambda: self._evaluate(trainer))
        if average:
            self._keep_if_best({"phase": phase.name, "epoch": state.epoch, **average})
            job.logger.note(
                f"phase {phase.name}: averaged the weights of epochs {average['epochs']}: "
                f"validation accuracy {average['val_accuracy']:.4f}"
            )
        for line in trainer.freeze_check.check(trained=state.step > trainer.first_step):
            job.logger.note(line)
        result = phase_result(trainer, state) | ({"average": average} if average else {})
        if trainer.partition.statistics(phase):
            batchnorm = self._check_batchnorm(trainer)
            result["batchnorm_check"] = dataclasses.asdict(batchnorm)
            if batchnorm.gap:
                job.logger.note(batchnorm.complaint(phase, result["steps"]))
        if result.get("skipped_steps"):
            job.logger.note(f"skipped {result['skipped_steps']} steps: float16 overflowed")
        state.end_phase(result)

    def _check_batchnorm(self, trainer: PhaseTrainer) -> BatchNormCheck:
        """Compares training and inference mode on the first batches of the last epoch."""
        state, length = self.state, self.job.steps_per_epoch
        first = state.phase_start + (state.epoch - 1) * length
        if trainer.features:  # a phase resumed at its end has filled nothing yet
            trainer.features.fill(first // length, self.job.shutdown.check)
        return check_batchnorm(trainer.step, trainer.train_batches(first, first + length, 1))


def phase_over(trainer: PhaseTrainer, state: TrainState) -> bool:
    """Whether a phase has all its epochs, or stops early."""
    patience = trainer.phase.early_stopping_patience
    early = patience is not None and state.stale >= patience
    return early or state.epoch >= trainer.epochs(state.epoch)
