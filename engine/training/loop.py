"""The story of a run, read from top to bottom.

train
  take up the newest checkpoint, or begin
  for each phase              split at its boundary, precision, what is kept, optimizer, step
    for each epoch
      fill                    the kept outputs of the frozen trunk that the epoch reads
      for each batch          bytes -> uint8 -> augment -> trunk -> tail -> update
      evaluate                every validation example once
      best?  stop early?      the best model is kept apart
      checkpoint              a run that is killed goes on from here, bit for bit
    check what moved
  test                        once, with the best model
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from engine.core.errors import UserError
from engine.core.files import write_json
from engine.core.recipe import Phase
from engine.evaluation import eval_step
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.loggers.base import StepMetrics
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, model_score, rank
from engine.runs.checkpoints import TrainState
from engine.runs.history import write_history
from engine.runs.lock import RunLock
from engine.runs.retrying_writer import RetryingWriter
from engine.runtime import background
from engine.runtime.profiler import Profiler
from engine.runtime.shutdown import ShutdownRequested
from engine.training import epoch_record, nan_recovery
from engine.training.batch_prefetcher import BatchPrefetcher
from engine.training.batchnorm_check import BatchNormCheck, check_batchnorm
from engine.training.final_evaluation import FinalEvaluation, evaluate_final_model
from engine.training.nan_recovery import NonFiniteLossError
from engine.training.phase import start_phase
from engine.training.state import PhaseState, RunClock, TrainerState, TrainJob

SAVE_SECONDS = 10.0  # epochs that are over sooner share a checkpoint,
SAVE_SHARE = 0.01  # and those that would spend more of their time on it


def train(job: TrainJob) -> FinalEvaluation:
    """Trains all phases, from the newest checkpoint where there is one.

    Raises:
      UserError: the loss is no longer a number and `setbacks` does not go on, or a checkpoint is
        of another model or of other images.
      Stopped: the run was asked to end; it is saved.
    """
    model, (progress, saved) = job.classifier.model, checkpoints.load(job.run)
    first = {} if saved else {"model": [variable.numpy() for variable in model.weights]}
    profiler = Profiler(job.profile_steps, job.run.events, job.logger.note)
    lock = job.lock or RunLock(job.run)
    run = TrainerState(
        job=job,
        progress=progress,
        clock=RunClock(),
        best=BestModel(job.run, job.loader.classes),
        profiler=profiler,
        writer=RetryingWriter(lock, job.recipe, job.logger.note, job.stop),
        nan_events=nan_recovery.read(job.run),
        initial_weights=first,
    )
    with job.stop.patient(), contextlib.closing(profiler):
        while True:
            try:
                return _train(run, saved or dict(first))
            except NonFiniteLossError as error:
                run, saved = nan_recovery.roll_back(run, error)


def _train(run: TrainerState, saved: dict[str, list[np.ndarray]]) -> FinalEvaluation:
    """saved: the groups of a checkpoint, or the first weights alone; emptied once in use."""
    job, progress, model = run.job, run.progress, run.job.classifier.model
    checkpoints.require_same_dataset(job.run, progress, job.loader.identity)
    checkpoints.restore(model.weights, saved.pop("model", []), str(job.run.checkpoints))
    run.best.resume(progress)
    if saved:
        job.logger.note(f"going on from step {progress.step} of {job.run.path}")
    for phase in job.recipe.phases[progress.phase :]:
        if not phase.epochs:
            progress.phase += 1
            continue
        stage = start_phase(job, phase, progress, saved, run.nan_events)
        saved.clear()
        with contextlib.closing(_supply(run, stage)) as supply, _saved_when_stopped(run, stage):
            while not _over(phase, progress):
                _fill(run, stage)
                train_epoch(run, stage, supply)
                nan_recovery.require_finite_loss(run, stage)
                _record(run, stage, _validate(run, stage))
                if _due(run, 0 if _over(phase, progress) else _soon(run)):
                    _save(run, stage)
            _settle(run, stage)
        _finish(run, stage)
        del stage, supply  # what they kept makes room for what the next ones keep
    run.profiler.end(progress.step)
    job.logger.end()
    step = eval_step.make_eval_step(model)
    found = evaluate_final_model(job, progress, step, run.clock, run.best)
    run.writer.insist(lambda: _write_end(run, found))
    return found


@contextlib.contextmanager
def _saved_when_stopped(run: TrainerState, stage: PhaseState) -> Iterator[None]:
    try:
        yield
    except ShutdownRequested as error:
        if not _save(run, stage):
            raise UserError(run.writer.lost(f"stopped by {error}")) from None
        raise


def _fill(run: TrainerState, stage: PhaseState) -> None:
    if stage.features and run.progress.step < _end_of_epoch(run):
        started = time.perf_counter()
        with background.paused():
            epoch = run.progress.step // run.job.steps_per_epoch
            stage.features.fill(epoch, run.job.stop.check)
        run.progress.fill_seconds += time.perf_counter() - started


def _supply(run: TrainerState, stage: PhaseState) -> BatchPrefetcher:
    length, start = run.job.steps_per_epoch, run.progress.phase_start
    return BatchPrefetcher(run.job.loader, stage, length, start + stage.phase.epochs * length)


def train_epoch(run: TrainerState, stage: PhaseState, supply: BatchPrefetcher) -> None:
    """The steps that are left of the current epoch."""
    stop = _end_of_epoch(run)
    while run.progress.step < stop:
        run.job.stop.check()
        _call(run, stage, supply)


def _end_of_epoch(run: TrainerState) -> int:
    return run.progress.phase_start + (run.progress.epoch + 1) * run.job.steps_per_epoch


def _call(run: TrainerState, stage: PhaseState, supply: BatchPrefetcher) -> None:
    """One call of the step, which may make several."""
    progress, before = run.progress, run.progress.step
    run.profiler.before(before)
    asked = time.perf_counter()
    batch = supply.next(before)
    got = time.perf_counter()
    first = before - progress.phase_start
    rates = [stage.rate(first + place) for place in range(batch.labels.shape[0])]
    stage.step(batch, tf.constant(rates, tf.float32))
    tf.test.experimental.sync_devices()  # else the wait for the device would count as data's
    done = time.perf_counter()
    progress.step += len(rates)
    progress.wait_seconds += got - asked
    progress.seconds += done - asked
    run.clock.record_step()
    run.profiler.after(progress.step)
    if progress.step // run.job.log_every_steps > before // run.job.log_every_steps:
        _log(run, stage, rates[-1])
    if _due(run):
        _save(run, stage)
    stage.pace.took(done - got)


def _log(run: TrainerState, stage: PhaseState, rate: float) -> None:
    """Shows the epoch's figures so far."""
    job, progress = run.job, run.progress
    figures = nan_recovery.figures(run, stage)
    done = progress.step - progress.phase_start
    job.logger.step(
        StepMetrics(
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


def _validate(run: TrainerState, stage: PhaseState) -> Evaluation:
    started = time.perf_counter()
    classes = len(run.job.loader.classes)
    evaluation = evaluate(stage.eval_step, stage.validation(), classes)
    run.progress.eval_seconds = time.perf_counter() - started
    return evaluation


def _record(run: TrainerState, stage: PhaseState, evaluation: Evaluation) -> None:
    """Closes an epoch: its row of history, the best model, the patience."""
    job, progress = run.job, run.progress
    figures = nan_recovery.figures(run, stage)
    progress.epoch += 1
    row = epoch_record.epoch_row(stage, progress, figures, evaluation)
    progress.history.append(row)
    stage.totals.reset()
    progress.close_epoch()
    if stage.phase.early_stopping_patience:
        least = math.inf if progress.best_loss is None else progress.best_loss
        better = evaluation.loss < least
        progress.stale = 0 if better else progress.stale + 1
        progress.best_loss = evaluation.loss if better else progress.best_loss
    if progress.best is None or rank(row) > rank(progress.best):
        progress.best = model_score(row)
        run.best.replace(job.classifier.model.weights)
    if not run.writer.trouble:  # else it comes with the next checkpoint: so little may find room
        run.writer.attempt(lambda: write_history(job.run, progress.history))
    job.logger.epoch(row, evaluation, best=progress.best == model_score(row))


def _over(phase: Phase, progress: TrainState) -> bool:
    tired = (
        phase.early_stopping_patience is not None
        and progress.stale >= phase.early_stopping_patience
    )
    return progress.epoch >= phase.epochs or tired


def _due(run: TrainerState, most: float = math.inf) -> bool:
    """Whether a checkpoint is, after `most` seconds at the latest."""
    return run.writer.due(run.clock.since_save(), min(most, 60 * run.job.checkpoint_minutes))


def _soon(run: TrainerState) -> float:
    """Seconds after which the end of an epoch is worth a checkpoint."""
    return max(SAVE_SECONDS, run.clock.save_seconds / SAVE_SHARE)


def _save(run: TrainerState, stage: PhaseState) -> bool:
    """A checkpoint, and before it all that belongs to it; whether it could be written."""
    nan_recovery.require_finite_loss(run, stage)
    started = time.perf_counter()
    run.clock.record_save(run.progress)
    written = run.writer.attempt(lambda: _write(run, stage))
    run.clock.save_seconds = time.perf_counter() - started
    run.progress.spend("save_seconds", run.clock.save_seconds)
    return written


def _write(run: TrainerState, stage: PhaseState) -> None:
    job, progress = run.job, run.progress
    stage.plans.save()
    if run.nan_events:
        nan_recovery.write(job.run, run.nan_events)
    run.best.save(progress)
    write_history(job.run, progress.history)
    epoch_record.draw_history(job, progress)
    variables = {
        "model": job.classifier.model.weights,
        "optimizer": stage.optimizer.variables,
        "totals": stage.totals.state,
    }
    checkpoints.save(job.run, progress, variables)
    run.initial_weights.clear()


def _write_end(run: TrainerState, found: FinalEvaluation) -> None:
    run.best.save(run.progress)
    write_json(run.job.run.result, found.result)


def _settle(run: TrainerState, stage: PhaseState) -> None:
    """After the last phase there is nothing left to do but to wait for a place to write to."""
    trained = [phase for phase in run.job.recipe.phases if phase.epochs]
    if run.writer.trouble and stage.phase is trained[-1]:
        run.writer.insist(lambda: _write(run, stage))


def _probe(run: TrainerState, stage: PhaseState) -> BatchNormCheck | None:
    """On the first batches of the epoch that was trained last."""
    if not stage.partition.statistics(stage.phase):
        return None
    progress, length = run.progress, run.job.steps_per_epoch
    first = progress.phase_start + (progress.epoch - 1) * length
    if stage.features:  # one that was taken up here has filled nothing yet
        stage.features.fill(first // length, run.job.stop.check)
    return check_batchnorm(stage.training, stage.batches(run.job.loader, first, first + length, 1))


def _finish(run: TrainerState, stage: PhaseState) -> None:
    """Checks what the phase moved, notes what it did, and makes way for the next."""
    job, progress = run.job, run.progress
    for line in stage.audit.check(trained=progress.step > stage.first_step):
        job.logger.note(line)
    result = epoch_record.phase_result(stage, progress)
    if probed := _probe(run, stage):
        result["probe"] = dataclasses.asdict(probed)
        if probed.gap:
            job.logger.note(probed.complaint(stage.phase, result["steps"]))
    if result.get("skipped_steps"):
        job.logger.note(f"{result['skipped_steps']} steps were skipped: float16 overflowed")
    progress.phases.append(result)
    progress.phase += 1
    progress.epoch, progress.stale, progress.best_loss = 0, 0, None
    progress.phase_start = progress.step
