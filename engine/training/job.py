"""The job that the training loop runs, in one value."""

from __future__ import annotations

import dataclasses
import time

from engine.core.dataset import Augmentation, DataLoader
from engine.core.recipe import Recipe
from engine.frozen.array_store import CacheBudget
from engine.frozen.trunk import CompiledTrunks
from engine.loggers.base import Logger
from engine.models.classifier import Classifier
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime.shutdown import Shutdown


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """All that a run needs.

    lock: of the run's directory; None where nothing else can know of the directory.
    cache_budget: where the trunk's outputs may be cached.
    compiled_trunks: from `trunk.compile_ahead`; a phase takes those that are its own.
    started: when the command began, by `time.perf_counter`; a budget counts from there.
    spent: seconds of the stages before training, as `TrainState.spent`.
    on_nan: see `engine.core.recipe.ON_NAN`. steps_per_execution: None to have it measured.
    profile_steps: the first and the last step that TensorFlow's profiler records.
    """

    recipe: Recipe
    classifier: Classifier
    loader: DataLoader
    augment: Augmentation
    run: RunDirectory
    logger: Logger
    lock: RunLock | None = None
    cache_budget: CacheBudget = dataclasses.field(default_factory=lambda: CacheBudget(0))
    compiled_trunks: CompiledTrunks = dataclasses.field(default_factory=dict)
    shutdown: Shutdown = dataclasses.field(default_factory=Shutdown)
    started: float = dataclasses.field(default_factory=time.perf_counter)
    spent: dict[str, float] = dataclasses.field(default_factory=dict)
    on_nan: str = "halve"
    checkpoint_minutes: float = 10.0
    log_every_steps: int = 10
    steps_per_execution: int | None = None
    profile_steps: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.loader.train_examples // self.recipe.batch_size)
