"""A phase ready to train: partition, precision, feature cache, optimizer, compiled step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

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
from engine.models.freezing import ModelPartition, partition_model
from engine.optim import losses, optimizers, options
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.nan_events import NanEvent, reduce_rate
from engine.runtime import background
from engine.training import steps
from engine.training.freeze_check import FreezeCheck
from engine.training.metrics import MetricAccumulator
from engine.training.state import TrainJob
from engine.training.steps import TrainStep
from engine.training.steps_per_execution import StepsPerExecution


@dataclasses.dataclass(eq=False)
class PhaseTrainer:
    """What a phase trains, with what, on what, and how it is evaluated.

    eval_step: as `evaluation.eval_step.make_eval_step`, from the trunk's outputs.
    rate: the learning rate by step of the phase.
    features: the cached outputs of the trunk; None where each step runs the trunk.
    cache_validation: keep the trunk's outputs for the validation images in memory.
    first_step: the run's step at which this process started or resumed the phase.
    """

    job: TrainJob
    step: TrainStep
    frozen_forward: FrozenForward
    eval_step: Callable[[Any, Any], tuple]
    rate: Callable[[int], float]
    views: ViewSchedule
    features: FeatureCache | None
    cache_validation: bool
    steps_per_execution: StepsPerExecution
    first_step: int
    freeze_check: FreezeCheck
    plans: PlanFile

    def __post_init__(self) -> None:
        self._validation: list[Batch] = []

    @property
    def phase(self) -> Phase:
        return self.step.phase

    @property
    def partition(self) -> ModelPartition:
        return self.step.partition

    @property
    def optimizer(self) -> Any:
        return self.step.optimizer

    @property
    def metrics(self) -> MetricAccumulator:
        return self.step.metrics

    def train_batches(
        self, first: int, stop: int, steps_per_execution: int
    ) -> Generator[Batch, None, None]:
        """Yields the batches of steps first to stop - 1, stacked, ready for `step`."""
        lookup = self.features.lookup if self.features else None
        yield from self.job.loader.train_batches(
            first, stop, steps_per_execution, self.views, lookup
        )

    def validation_batches(self) -> Iterable[Batch]:
        """Returns the validation batches with the trunk's outputs as inputs of `eval_step`."""
        if not self.cache_validation:
            return self._run_trunk_on_validation()
        if not self._validation:
            with background.paused():
                self._validation = [
                    tf.nest.map_structure(np.asarray, batch)
                    for batch in self._run_trunk_on_validation()
                ]
        return self._validation

    def _run_trunk_on_validation(self) -> Iterator[Batch]:
        for batch in self.job.shutdown.check_each(self.job.loader.split_batches("validation")):
            yield batch._replace(inputs=self.frozen_forward.plain(batch.inputs))


def start_phase(
    job: TrainJob,
    phase: Phase,
    state: TrainState,
    arrays: dict[str, list[np.ndarray]],
    nan_events: Sequence[NanEvent] = (),
) -> PhaseTrainer:
    """Partitions the model for a phase, decides what is cached, builds optimizer and step.

    Args:
      arrays: the groups of a checkpoint from which the phase resumes, or empty.
      nan_events: those of the run so far.
    """
    recipe = job.recipe
    partition = partition_model(job.classifier, phase.trainable)
    plans = PlanFile(job.run.plan, recipe, job.logger.note)
    frozen_forward = _make_frozen_forward(job, phase, partition, plans)
    cache = _decide_cache(job, phase, partition, frozen_forward, plans)
    first_epoch = state.phase_start // job.steps_per_epoch
    views = ViewSchedule(first_epoch, cache.views, phase.refresh, recipe.batch_size)
    features = _make_feature_cache(job, frozen_forward, cache, views)
    row_bytes = frozen_forward.row_bytes if features else 3 * math.prod(recipe.image_size)
    mode = _choose_tail_mode(job, phase, partition, frozen_forward, plans)
    boundary = features.restore if features else frozen_forward.training
    rate = options.rate(phase, job.steps_per_epoch)
    return PhaseTrainer(
        job=job,
        step=_make_train_step(job, phase, partition, mode, boundary, arrays),
        frozen_forward=frozen_forward,
        eval_step=steps.make_tail_eval_step(partition, mode),
        rate=reduce_rate(rate, nan_events, phase, state.phase_start),
        views=views,
        features=features,
        cache_validation=cache.validation,
        steps_per_execution=StepsPerExecution(
            job.steps_per_execution, recipe.batch_size * row_bytes
        ),
        first_step=state.step,
        freeze_check=FreezeCheck(job.classifier.model, partition, phase),
        plans=plans,
    )


def _make_train_step(
    job: TrainJob,
    phase: Phase,
    partition: ModelPartition,
    mode: ComputeMode,
    boundary: Callable[[Batch], list],
    arrays: dict[str, list[np.ndarray]],
) -> TrainStep:
    """Builds optimizer and metrics, fresh or restored, and the step."""
    optimizer = optimizers.build(
        phase,
        options.options(phase).optimizer,
        partition.variables,
        scale_loss=mode.dtype == "float16",
    )
    metrics = MetricAccumulator()
    if arrays:
        path = str(job.run.checkpoints)
        checkpoints.restore(optimizer.variables, arrays.get("optimizer", []), path)
        checkpoints.restore(metrics.variables, arrays.get("metrics", []), path)
    return TrainStep(
        recipe=job.recipe,
        phase=phase,
        partition=partition,
        mode=mode,
        boundary=boundary,
        optimizer=optimizer,
        class_weights=losses.class_weights(job.recipe.class_weights, job.loader.class_counts),
        metrics=metrics,
    )


def _make_frozen_forward(
    job: TrainJob, phase: Phase, partition: ModelPartition, plans: PlanFile
) -> FrozenForward:
    """Compiles the trunk in the precision that is fastest here."""
    compile_trunk = job.warmup.take_compiler(phase, partition)
    modes = precision.recipe_modes(job.recipe)
    mode = modes[0]
    if partition.frozen:

        def images() -> tf.Tensor:
            return tf.cast(_first_batch(job).inputs, tf.float32)

        mode = plans.trunk_trial(phase, modes, compile_trunk, images).mode
    return FrozenForward(job.recipe.seed, job.augment, compile_trunk(mode))


def _first_batch(job: TrainJob) -> Batch:
    return next(iter(job.loader.split_batches("train", [0])))


def _choose_tail_mode(
    job: TrainJob,
    phase: Phase,
    partition: ModelPartition,
    frozen_forward: FrozenForward,
    plans: PlanFile,
) -> ComputeMode:
    """Chooses what is fastest here for a forward and backward pass of the tail."""
    modes = precision.training_modes(precision.recipe_modes(job.recipe), partition.tail)
    if len(modes) == 1:
        return modes[0]

    def compile_trial(mode: ComputeMode) -> Callable[[list], list]:
        return steps.make_trial(job.recipe, phase, partition, mode)

    def boundary() -> list:
        return frozen_forward.plain(_first_batch(job).inputs)

    return plans.tail_trial(phase, modes, compile_trial, boundary).mode


def _decide_cache(
    job: TrainJob,
    phase: Phase,
    partition: ModelPartition,
    frozen_forward: FrozenForward,
    plans: PlanFile,
) -> CacheDecision:
    """Decides what is cached of the trunk's outputs, or reads the decision made before."""
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


def _make_feature_cache(
    job: TrainJob, frozen_forward: FrozenForward, cache: CacheDecision, views: ViewSchedule
) -> FeatureCache | None:
    if not cache.slots:
        return None
    try:
        return FeatureCache(job.loader, frozen_forward, views, cache.slots, job.cache_budget)
    except OSError as error:
        job.logger.note(f"the trunk's outputs can't be cached ({error}); each step computes them")
        return None
