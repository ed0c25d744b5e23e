"""A phase made ready: split, precision, what is kept, optimizer, compiled step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.frozen import cache_policy, precision
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.feature_cache import FeatureCache
from engine.frozen.forward import FrozenForward
from engine.frozen.phase_plan import PlanFile
from engine.frozen.precision import ComputeMode
from engine.frozen.view_schedule import ViewSchedule
from engine.models import freezing
from engine.optim import losses, optimizers
from engine.optim import options as recipes
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runtime import background
from engine.training import freeze_check, steps
from engine.training.metrics import MetricAccumulator
from engine.training.nan_recovery import with_reduced_rate
from engine.training.state import NanEvent, PhaseState, TrainJob
from engine.training.steps_per_execution import StepsPerExecution


def start_phase(
    job: TrainJob, phase: Phase, progress: TrainState, saved: dict, before: Sequence[NanEvent] = ()
) -> PhaseState:
    """Splits the model for a phase, decides what is kept, builds optimizer and step.

    saved: the groups of arrays of a checkpoint that the phase goes on from, or empty.
    before: the run's setbacks.
    """
    recipe = job.recipe
    partition = freezing.partition_model(job.classifier, phase.trainable)
    plans = PlanFile(job.run.plan, job.recipe, job.logger.note)
    frozen_forward = _lower_part(job, phase, partition, plans)
    cache = _cache(job, phase, partition, frozen_forward, plans)
    first_epoch = progress.phase_start // job.steps_per_epoch
    views = ViewSchedule(first_epoch, cache.views, phase.refresh, recipe.batch_size)
    features = _features(job, frozen_forward, cache, views)
    row_bytes = frozen_forward.row_bytes if features else 3 * math.prod(recipe.image_size)
    upper = _upper_program(job, phase, partition, frozen_forward, plans)
    below = features.restore if features else frozen_forward.training
    training = _training(job, phase, partition, upper, below, saved)
    return PhaseState(
        training=training,
        frozen_forward=frozen_forward,
        step=steps.make_train_step(training),
        eval_step=steps.make_upper_step(partition, upper),
        rate=with_reduced_rate(
            recipes.rate(phase, job.steps_per_epoch), before, phase, progress.phase_start
        ),
        views=views,
        features=features,
        validation=_validation(job, frozen_forward, cache),
        pace=StepsPerExecution(job.steps_per_execution, recipe.batch_size * row_bytes),
        first_step=progress.step,
        audit=freeze_check.FreezeCheck(job.classifier.model, partition, phase),
        plans=plans,
    )


def _training(
    job: TrainJob,
    phase: Phase,
    partition: freezing.ModelPartition,
    upper: ComputeMode,
    frozen_forward: Callable,
    saved: dict,
) -> steps.StepContext:
    """With an optimizer and the sums of an epoch: fresh, or as a checkpoint has them."""
    options, scale_loss = recipes.options(phase).optimizer, upper.dtype == "float16"
    optimizer = optimizers.build(phase, options, partition.variables, scale_loss=scale_loss)
    totals = MetricAccumulator()
    if saved:
        where = str(job.run.checkpoints)
        checkpoints.restore(optimizer.variables, saved.get("optimizer", []), where)
        checkpoints.restore(totals.variables, saved.get("totals", []), where)
    return steps.StepContext(
        recipe=job.recipe,
        phase=phase,
        partition=partition,
        program=upper,
        frozen_forward=frozen_forward,
        optimizer=optimizer,
        class_weights=losses.class_weights(job.recipe.class_weights, job.loader.class_counts),
        totals=totals,
    )


def _lower_part(
    job: TrainJob, phase: Phase, partition: freezing.ModelPartition, plans: PlanFile
) -> FrozenForward:
    """The frozen part in the precision that is fastest here."""
    make = job.warmup.take_compiler(phase, partition)
    program = precision.recipe_modes(job.recipe)[0]
    if partition.frozen:
        programs = precision.recipe_modes(job.recipe)
        program = plans.trunk_trial(phase, programs, make, _pixels(job)).mode
    return FrozenForward(job.recipe.seed, job.augment, make(program))


def _pixels(job: TrainJob) -> Callable[[], tf.Tensor]:
    return lambda: tf.cast(_first(job).inputs, tf.float32)


def _first(job: TrainJob) -> Batch:
    return next(iter(job.loader.split_batches("train", [0])))


def _upper_program(
    job: TrainJob,
    phase: Phase,
    partition: freezing.ModelPartition,
    frozen_forward: FrozenForward,
    plans: PlanFile,
) -> ComputeMode:
    """How the tail is computed: what is fastest here for its way forth and back."""
    programs = precision.training_modes(precision.recipe_modes(job.recipe), partition.tail)
    if len(programs) == 1:
        return programs[0]

    def make(program: ComputeMode) -> Callable[[list], list]:
        return steps.make_trial(job.recipe, phase, partition, program)

    def boundary() -> list:
        return frozen_forward.plain(_first(job).inputs)

    return plans.tail_trial(phase, programs, make, boundary).mode


def _cache(
    job: TrainJob,
    phase: Phase,
    partition: freezing.ModelPartition,
    frozen_forward: FrozenForward,
    plans: PlanFile,
) -> CacheDecision:
    """What is cached of the trunk's outputs; as decided before, where that is written."""
    trials = plans[phase].trunk
    return plans.cache(
        phase,
        lambda: cache_policy.decide(
            job.recipe,
            phase,
            job.loader,
            frozen=partition.frozen,
            outcomes=job.augment.outcomes,
            row_bytes=frozen_forward.row_bytes,
            images_per_second=precision.choose_trial(trials).images_per_second if trials else 1.0,
            budget=job.cache_budget,
        ),
    )


def _features(
    job: TrainJob, frozen_forward: FrozenForward, cache: CacheDecision, views: ViewSchedule
) -> FeatureCache | None:
    if not cache.slots:
        return None
    try:
        return FeatureCache(job.loader, frozen_forward, views, cache.slots, job.cache_budget)
    except OSError as error:
        job.logger.note(f"the trunk's outputs can't be cached ({error}); each step computes them")
        return None


def _validation(
    job: TrainJob, frozen_forward: FrozenForward, cache: CacheDecision
) -> Callable[[], Iterable[Batch]]:
    def worked_out() -> Iterator[Batch]:
        for batch in job.stop.checked(job.loader.split_batches("validation")):
            yield batch._replace(inputs=frozen_forward.plain(batch.inputs))

    if not cache.validation:
        return worked_out
    kept: list[Batch] = []

    def once_only() -> list[Batch]:
        if not kept:
            with background.paused():
                kept[:] = [tf.nest.map_structure(np.asarray, batch) for batch in worked_out()]
        return kept

    return once_only
