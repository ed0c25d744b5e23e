"""Measures the stages of a phase, each alone, and the whole as the training loop runs it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from engine.benchmark.measurement import Measurement, Rate
from engine.benchmark.timing import SAMPLE_SECONDS, Workload, measure_in_turn
from engine.core.dataset import Batch
from engine.core.recipe import Phase, Recipe
from engine.runs.checkpoints import TrainState
from engine.runtime import hardware, stateless_random
from engine.training.batch_prefetcher import BatchPrefetcher
from engine.training.job import TrainJob
from engine.training.phase import PhaseTrainer

# Calls of the training step in a sample: filling the prefetcher must not dominate.
MIN_CALLS, MAX_CALLS = 6, 100


@dataclasses.dataclass(frozen=True)
class PhaseBenchmark:
    """A prepared phase with the steps per execution of a run, and the calls in a sample."""

    job: TrainJob
    trainer: PhaseTrainer
    calls: int = MIN_CALLS

    @property
    def steps(self) -> int:
        """Steps of a call that the end of an epoch does not shorten."""
        return min(self.trainer.steps_per_execution.steps, self.job.steps_per_epoch)

    @property
    def sample(self) -> int:
        """Steps in a sample; as in a run, the end of an epoch shortens a call."""
        length = self.job.steps_per_epoch
        epochs, rest = divmod(self.calls, -(-length // self.steps))
        return min(epochs * length + rest * self.steps, self.prefetcher().available_until(0))

    def prefetcher(self) -> BatchPrefetcher:
        """Returns a prefetcher of as many epochs as a sample may need."""
        length = self.job.steps_per_epoch
        return BatchPrefetcher(self.trainer, length, self.calls * length)

    def batches(self) -> Iterator[Batch]:
        """Yields the stacked batches of a sample as the training loop receives them."""
        step, stop = 0, self.sample
        with contextlib.closing(self.prefetcher()) as prefetcher:
            while step < stop:
                batch = prefetcher.next(step)
                step += batch.labels.shape[0]
                yield batch

    def rates(self, count: int) -> tf.Tensor:
        """Returns the learning rates of the first `count` steps, float32 [count]."""
        return tf.constant([self.trainer.rate(step) for step in range(count)], tf.float32)


def prepare(job: TrainJob, phase: Phase) -> PhaseBenchmark:
    """Starts the phase, tunes its steps per execution as a run does, and sizes the samples."""
    trainer = PhaseTrainer(job, phase, TrainState(), {})
    if trainer.features:
        trainer.features.fill(0)
    benchmark = PhaseBenchmark(job, trainer)
    batch = next(iter(trainer.train_batches(0, 1, 1)))
    while not trainer.steps_per_execution.settled:
        trainer.steps_per_execution.record(_call_seconds(benchmark, batch))
    calls = round(SAMPLE_SECONDS / _call_seconds(benchmark, next(benchmark.batches())))
    return PhaseBenchmark(job, trainer, min(max(calls, MIN_CALLS), MAX_CALLS))


def _call_seconds(benchmark: PhaseBenchmark, batch: Batch) -> float:
    """Measures the seconds of a call."""
    call = Workload(lambda: run_call(benchmark, batch), 1)
    [rate] = measure_in_turn({"call": call}, 1)["call"]
    return 1 / rate


def run_call(benchmark: PhaseBenchmark, batch: Batch) -> None:
    benchmark.trainer.step(batch, benchmark.rates(batch.labels.shape[0]))
    tf.test.experimental.sync_devices()


def workloads(benchmark: PhaseBenchmark) -> dict[str, Workload]:
    """Returns the workloads `input` and `whole`, and those of the phase's other stages."""
    batch = tf.nest.map_structure(lambda column: column[0], next(benchmark.batches()))
    images = benchmark.sample * benchmark.job.recipe.batch_size

    def whole() -> None:
        for stacked in benchmark.batches():
            run_call(benchmark, stacked)

    stages = {"input": Workload(lambda: collections.deque(benchmark.batches(), maxlen=0), images)}
    if benchmark.trainer.features:
        boundary = benchmark.trainer.features.restore(batch)
    else:
        stages["augment"] = augment_stage(benchmark, batch)
        boundary = benchmark.trainer.frozen_forward.plain(batch.inputs)
        if benchmark.trainer.partition.frozen:
            stages["trunk"] = trunk_stage(benchmark, batch)
    stages["tail"] = tail_step(benchmark, batch._replace(inputs=tuple(boundary)))
    stages["whole"] = Workload(whole, images)
    return stages


def augment_stage(benchmark: PhaseBenchmark, batch: Batch) -> Workload:
    """Returns the random augmentation of a batch."""
    random_values = stateless_random.uniform(
        0, stateless_random.AUGMENT, batch.views, batch.examples, benchmark.job.augment.draws
    )
    augment = benchmark.trainer.frozen_forward.augment
    return Workload(lambda: fetch(augment(batch.inputs, random_values)), batch.labels.shape[0])


def trunk_stage(benchmark: PhaseBenchmark, batch: Batch) -> Workload:
    """Returns the frozen layers on the images of a batch."""
    trunk = benchmark.trainer.frozen_forward.plain
    return Workload(lambda: fetch(trunk(batch.inputs)), batch.labels.shape[0])


def tail_step(benchmark: PhaseBenchmark, batch: Batch) -> Workload:
    """Returns the training step above the frozen layers, on a prepared batch."""
    step = dataclasses.replace(benchmark.trainer.step, boundary=lambda batch: list(batch.inputs))
    stacked = tf.nest.map_structure(lambda column: tf.stack([column] * benchmark.steps), batch)

    def run() -> None:
        step(stacked, benchmark.rates(benchmark.steps))
        tf.test.experimental.sync_devices()

    return Workload(run, benchmark.steps * benchmark.job.recipe.batch_size)


def fetch(result: Any) -> None:
    """Waits for tensors by copying an element of each to the host."""
    for tensor in tf.nest.flatten(result):
        tf.reshape(tensor, [-1])[:1].numpy()


def measure_phase(job: TrainJob, phase: Phase, repeats: int) -> Measurement:
    """Measures all stages of one phase of a recipe."""
    hardware.reset_peak_memory()
    stages = workloads(prepare(job, phase))
    return measure(job.recipe, job.recipe.precision, phase.name, stages, repeats)


def measure(
    recipe: Recipe, precision: str, phase: str, stages: Mapping[str, Workload], repeats: int
) -> Measurement:
    """Measures the stages and the workload named `whole`."""
    rates = {name: Rate.of(each) for name, each in measure_in_turn(stages, repeats).items()}
    return Measurement(
        backbone=recipe.backbone,
        image_size=recipe.image_size,
        batch_size=recipe.batch_size,
        precision=precision,
        phase=phase,
        whole=rates.pop("whole"),
        stages=rates,
        shares_cores=not tf.config.list_physical_devices("GPU"),
        peak_memory=hardware.peak_memory(),
    )
