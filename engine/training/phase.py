"""A phase ready to train: partition, precision, feature cache, optimizer, compiled step."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.frozen import cache_policy, precision, trunk
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.feature_cache import FeatureCache
from engine.frozen.forward import FrozenForward
from engine.frozen.phase_plan import PlanFile, planned_epochs
from engine.frozen.precision import ComputeMode
from engine.frozen.trial_memory import TrialMemory
from engine.frozen.view_schedule import ViewSchedule
from engine.models.freezing import partition_model, rate_factors
from engine.optim import losses, optimizers, phase_options
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.nan_events import NanEvent, reduce_rate
from engine.runtime import background
from engine.training import averaging, train_step
from engine.training.freeze_check import FreezeCheck
from engine.training.job import TrainJob
from engine.training.metrics import MetricAccumulator
from engine.training.steps_per_execution import StepsPerExecution
from engine.training.train_step import TrainStep


class PhaseTrainer:
    """What a phase trains, with what, on what, and how it is evaluated.

    Attributes:
      partition: the model, partitioned for the phase.
      plans: what was measured and decided for the run's phases.
      frozen_forward: the augmentation and the trunk.
      views: the augmentation views of each example by epoch.
      features: the cached outputs of the trunk; None where each step runs the trunk.
      average: the average of the weights that is evaluated and saved.
      step: the compiled train step, with optimizer and metrics.
      eval_step: as `evaluation.eval_step.make_eval_step`, from the trunk's outputs.
      rate: the learning rate by step of the phase.
      first_step: the run's step at which this process started or resumed the phase.
      solved: what is recorded of a head once it is solved; None in other phases.
    """

    def __init__(
        self,
        job: TrainJob,
        phase: Phase,
        state: TrainState,
        arrays: dict[str, list[np.ndarray]],
        nan_events: Sequence[NanEvent] = (),
    ) -> None:
        """Partitions the model, decides what is cached, builds optimizer and step.

        Args:
          arrays: the groups of a checkpoint from which the phase resumes, or empty.
          nan_events: those of the run so far.
        """
        recipe, self.job, self.phase = job.recipe, job, phase
        self.partition = partition_model(job.classifier, phase.trainable)
        memory = TrialMemory(job.cache_budget.folder, recipe, len(job.loader.classes))
        self.plans = PlanFile(job.run.plan, recipe, job.logger.note, memory)
        self.frozen_forward = self._make_frozen_forward()
        cache = self._decide_cache()
        first_epoch = state.phase_start // job.steps_per_epoch
        self.views = ViewSchedule(first_epoch, cache.views, phase.refresh, recipe.batch_size)
        self.features = self._make_feature_cache(cache.slots)
        mode = self._choose_tail_mode()
        self.metrics = MetricAccumulator()
        self.optimizer = optimizers.build(
            phase,
            phase_options.phase_options(phase).optimizer,
            self.partition.variables,
            scale_loss=mode.dtype == "float16",
            rate_factors=rate_factors(job.classifier, self.partition.variables, phase.layer_decay),
        )
        if arrays:
            path = str(job.run.checkpoints)
            checkpoints.restore(self.optimizer.variables, arrays.get("optimizer", []), path)
            checkpoints.restore(self.metrics.variables, arrays.get("metrics", []), path)
        self.average = averaging.make(
            phase, self.partition.variables, self.optimizer, state, arrays.get("average", [])
        )
        self.step = self._make_train_step(mode)
        self.eval_step = train_step.make_tail_eval_step(self.partition, mode)
        self.rate = reduce_rate(self._make_rate(), nan_events, phase, state.phase_start)
        image_bytes = 3 * math.prod(recipe.image_size)
        row_bytes = self.frozen_forward.row_bytes if self.features else image_bytes
        step_bytes = recipe.batch_size * row_bytes
        self.steps_per_execution = StepsPerExecution(job.steps_per_execution, step_bytes)
        self.first_step = state.step
        self.solved: dict[str, Any] | None = None
        self.freeze_check = FreezeCheck(job.classifier.model, self.partition, phase)
        self._cache_validation = cache.validation
        self._validation: list[Batch] = []

    def epochs(self, epoch: int) -> int:
        """Returns how many epochs the phase has, as known when `epoch` of them are over."""
        return planned_epochs(self.plans[self.phase], self.phase, epoch)

    def _make_rate(self) -> Callable[[int], float]:
        length = self.job.steps_per_epoch

        @functools.cache
        def rate(epochs: int) -> Callable[[int], float]:
            planned = dataclasses.replace(self.phase, epochs=epochs)
            return phase_options.phase_learning_rate(planned, length)

        if self.job.recipe.budget is None:
            return rate(self.phase.epochs)
        return lambda step: rate(self.epochs(step // length))(step)

    def train_batches(
        self, first: int, stop: int, steps_per_execution: int
    ) -> Generator[Batch, None, None]:
        """Yields the batches of steps first to stop - 1, stacked, ready for `step`."""
        loader, lookup = self.job.loader, self.features.lookup if self.features else None
        yield from loader.train_batches(first, stop, steps_per_execution, self.views, lookup)

    def validation_batches(self) -> Iterable[Batch]:
        """Returns the validation batches with the trunk's outputs as inputs of `eval_step`."""
        if not self._cache_validation:
            return self._run_trunk_on_validation()
        if not self._validation:
            with background.paused():
                batches = self._run_trunk_on_validation()
                self._validation = [tf.nest.map_structure(np.asarray, batch) for batch in batches]
        return self._validation

    def _run_trunk_on_validation(self) -> Iterator[Batch]:
        for batch in self.job.shutdown.check_each(self.job.loader.split_batches("validation")):
            yield batch._replace(inputs=self.frozen_forward.plain(batch.inputs))

    def _first_images(self) -> tf.Tensor:
        return tf.cast(next(iter(self.job.loader.split_batches("train", [0]))).inputs, tf.float32)

    def _first_outputs(self) -> list:
        return self.frozen_forward.plain(self._first_images())

    def _make_frozen_forward(self) -> FrozenForward:
        """Compiles the trunk in the precision that is fastest here."""
        job, phase = self.job, self.phase

        @functools.cache
        def compile_trunk(mode: ComputeMode) -> Callable[[Any], list]:
            ready = job.compiled_trunks.pop((phase.name, mode), None)
            return ready or trunk.compile_frozen(self.partition.trunk, mode)

        modes = precision.recipe_modes(job.recipe)
        mode = modes[0]
        if self.partition.frozen:
            mode = self.plans.trial(phase, "trunk", modes, compile_trunk, self._first_images).mode
        forward = FrozenForward(job.recipe.seed, job.augment, compile_trunk(mode))
        job.compiled_trunks.clear()  # the weights of other phases will have changed
        return forward

    def _decide_cache(self) -> CacheDecision:
        """Decides what is cached of the trunk's outputs, or reads the decision made before."""
        job, trials = self.job, self.plans[self.phase].trunk
        speed = precision.choose_trial(trials).images_per_second if trials else 1.0
        return self.plans.cache(
            self.phase,
            lambda: cache_policy.decide(
                job.recipe,
                self.phase,
                job.loader,
                frozen=self.partition.frozen,
                outcomes=job.augment.outcomes,
                row_bytes=self.frozen_forward.row_bytes,
                images_per_second=speed,
                budget=job.cache_budget,
            ),
        )

    def _make_feature_cache(self, slots: int) -> FeatureCache | None:
        loader, budget = self.job.loader, self.job.cache_budget
        if not slots:
            return None
        try:
            return FeatureCache(loader, self.frozen_forward, self.views, slots, budget)
        except OSError as error:
            note = f"the trunk's outputs can't be cached ({error}); each step computes them"
            self.job.logger.note(note)
            return None

    def _choose_tail_mode(self) -> ComputeMode:
        """Chooses what is fastest here for a forward and backward pass of the tail."""
        recipe, phase, partition = self.job.recipe, self.phase, self.partition
        modes = precision.training_modes(precision.recipe_modes(recipe), partition.tail)
        if len(modes) == 1:
            return modes[0]
        make_trial = functools.partial(train_step.make_trial, recipe, phase, partition)
        return self.plans.trial(phase, "tail", modes, make_trial, self._first_outputs).mode

    def _make_train_step(self, mode: ComputeMode) -> TrainStep:
        job = self.job
        return TrainStep(
            recipe=job.recipe,
            phase=self.phase,
            partition=self.partition,
            mode=mode,
            boundary=self.features.restore if self.features else self.frozen_forward.training,
            optimizer=self.optimizer,
            class_weights=losses.class_weights(job.recipe.class_weights, job.loader.class_counts),
            metrics=self.metrics,
        )
