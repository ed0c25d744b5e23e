"""The records of a run at work: its job, its phase and how far it has come."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Augmentation, Batch, DataLoader
from engine.core.recipe import Phase, Recipe
from engine.frozen.array_store import CacheBudget
from engine.frozen.feature_cache import FeatureCache
from engine.frozen.forward import FrozenForward
from engine.frozen.phase_plan import PlanFile
from engine.frozen.view_schedule import ViewSchedule
from engine.frozen.warmup import Warmup
from engine.loggers.base import Logger
from engine.models import freezing
from engine.models.classifier import Classifier
from engine.runs.best_model import BestModel
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runs.retrying_writer import RetryingWriter
from engine.runtime.profiler import Profiler
from engine.runtime.shutdown import Shutdown
from engine.training import freeze_check, steps
from engine.training.metrics import MetricAccumulator
from engine.training.steps_per_execution import StepsPerExecution


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """All that a run needs.

    cache_budget: where a trunk's outputs may be kept. warmup: what is compiled already.
    steps_per_execution: None to have it measured. profile_steps: the first and the last step that
    TensorFlow's profiler records, or None.
    """

    recipe: Recipe
    classifier: Classifier
    loader: DataLoader
    augment: Augmentation
    run: RunDirectory
    logger: Logger
    lock: RunLock | None = None
    cache_budget: CacheBudget = dataclasses.field(default_factory=lambda: CacheBudget(0))
    warmup: Warmup = dataclasses.field(default_factory=Warmup)
    stop: Shutdown = dataclasses.field(default_factory=Shutdown)
    on_nan: str = "halve"
    checkpoint_minutes: float = 10.0
    log_every_steps: int = 10
    steps_per_execution: int | None = None
    profile_steps: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.loader.train_examples // self.recipe.batch_size)


@dataclasses.dataclass(frozen=True)
class PhaseState:
    """What a phase trains, with what, on what, and how it is measured.

    frozen_forward: the frozen part with what comes before it.
    features: the kept outputs of the trunk, or None where each step runs it.
    validation: the validation batches, with the trunk's outputs for inputs of `eval_step`.
    """

    training: steps.StepContext
    frozen_forward: FrozenForward
    step: Callable[[Batch, tf.Tensor], None]
    eval_step: Callable[[Any, Any], tuple]
    rate: Callable[[int], float]
    views: ViewSchedule
    features: FeatureCache | None
    validation: Callable[[], Iterable[Batch]]
    pace: StepsPerExecution
    first_step: int
    audit: freeze_check.FreezeCheck
    plans: PlanFile

    @property
    def phase(self) -> Phase:
        return self.training.phase

    @property
    def partition(self) -> freezing.ModelPartition:
        return self.training.partition

    @property
    def optimizer(self) -> Any:
        return self.training.optimizer

    @property
    def totals(self) -> MetricAccumulator:
        return self.training.totals

    def batches(
        self, loader: DataLoader, first: int, stop: int, per_call: int
    ) -> Generator[Batch, None, None]:
        lookup = self.features.lookup if self.features else None
        yield from loader.train_batches(first, stop, per_call, self.views, lookup)


@dataclasses.dataclass(frozen=True)
class NanEvent:
    """phase: its name. step: with the loss. since: the step from which on the rate is halved."""

    phase: str
    step: int
    since: int


class RunClock:
    """Times of the process: since it began, and since the last checkpoint."""

    def __init__(self) -> None:
        self.last_save = time.perf_counter()
        self.save_seconds = 0.0  # of the last checkpoint
        self.first_step: float | None = None

    def record_step(self) -> None:
        if self.first_step is None:
            self.first_step = process_seconds()

    def since_save(self) -> float:
        return time.perf_counter() - self.last_save

    def record_save(self, progress: TrainState) -> None:
        """Adds the time since the last call to the run's total."""
        now = time.perf_counter()
        progress.total_seconds += now - self.last_save
        self.last_save = now


def process_seconds() -> float:
    """Returns the seconds since this process was started, from /proc."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class TrainerState:
    """A run at work.

    initial_weights: what a NaN recovery returns to until there is a checkpoint; empty afterwards.
    """

    job: TrainJob
    progress: TrainState
    clock: RunClock
    best: BestModel
    profiler: Profiler
    writer: RetryingWriter
    nan_events: list[NanEvent]
    initial_weights: dict[str, list[np.ndarray]]
