"""What a run is given, and its clock: read by all modules of training."""

from __future__ import annotations

import dataclasses
import os
import time

from engine.core.dataset import Augmentation, DataLoader
from engine.core.recipe import Recipe
from engine.frozen.array_store import CacheBudget
from engine.frozen.warmup import Warmup
from engine.loggers.base import Logger
from engine.models.classifier import Classifier
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime.shutdown import Shutdown


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """All that a run needs.

    lock: of the run's directory; None where nothing else can know of the directory.
    cache_budget: where the trunk's outputs may be cached. warmup: what is compiled already.
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
    warmup: Warmup = dataclasses.field(default_factory=Warmup)
    shutdown: Shutdown = dataclasses.field(default_factory=Shutdown)
    on_nan: str = "halve"
    checkpoint_minutes: float = 10.0
    log_every_steps: int = 10
    steps_per_execution: int | None = None
    profile_steps: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.loader.train_examples // self.recipe.batch_size)


class RunClock:
    """Measures the run's time: to its first step, and since the last checkpoint.

    Attributes:
      first_step: seconds from the start of the process to the end of its first step.
    """

    def __init__(self) -> None:
        self.first_step: float | None = None
        self._last_save = time.perf_counter()

    def record_step(self) -> None:
        if self.first_step is None:
            self.first_step = process_seconds()

    def since_save(self) -> float:
        return time.perf_counter() - self._last_save

    def record_save(self, state: TrainState) -> None:
        """Adds the time since the last call to the run's total."""
        now = time.perf_counter()
        state.total_seconds += now - self._last_save
        self._last_save = now


def process_seconds() -> float:
    """Returns the seconds since this process was started, from /proc."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
