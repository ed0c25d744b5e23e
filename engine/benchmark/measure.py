"""The stages of a phase, each alone, and the whole as the loop runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from engine.benchmark.rows import Rate, Row
from engine.benchmark.timing import SAMPLE_SECONDS, Work, alternate
from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.runs.checkpoints import TrainState
from engine.runtime import hardware, stateless_random
from engine.training.batch_prefetcher import BatchPrefetcher
from engine.training.phase import PhaseTrainer
from engine.training.state import TrainJob

# Calls of the loop in one sample. A run begins once to make batches ready, and then goes on.
LEAST_CALLS, MOST_CALLS = 6, 100


@dataclasses.dataclass(frozen=True)
class Bench:
    """A phase made ready to be measured, at the pace of a run, so many calls in one sample."""

    job: TrainJob
    stage: PhaseTrainer
    calls: int = LEAST_CALLS

    @property
    def steps(self) -> int:
        """Of a call that is not cut short by the end of an epoch."""
        return min(self.stage.steps_per_execution.steps, self.job.steps_per_epoch)

    @property
    def sample(self) -> int:
        """Steps of the calls that make a sample: as a run has them, cut short by ends of epochs."""
        length = self.job.steps_per_epoch
        epochs, rest = divmod(self.calls, -(-length // self.steps))
        return min(epochs * length + rest * self.steps, self.supply().available_until(0))

    @property
    def images(self) -> int:
        return self.sample * self.job.recipe.batch_size

    def supply(self) -> BatchPrefetcher:
        length = self.job.steps_per_epoch
        return BatchPrefetcher(self.stage, length, self.calls * length)

    def batches(self) -> Iterator[Batch]:
        """The stacked batches of a sample, one after the other, as the loop gets them."""
        step, stop = 0, self.sample
        with contextlib.closing(self.supply()) as supply:
            while step < stop:
                batch = supply.next(step)
                step += batch.labels.shape[0]
                yield batch

    def rates(self, count: int) -> tf.Tensor:
        return tf.constant([self.stage.rate(place) for place in range(count)], tf.float32)


def prepare(job: TrainJob, phase: Phase) -> Bench:
    """Begins the phase and finds its pace, as a run does, and how many calls a sample takes."""
    stage = PhaseTrainer(job, phase, TrainState(), {})
    if stage.features:
        stage.features.fill(0)
    bench = Bench(job, stage)
    batch = next(iter(stage.train_batches(0, 1, 1)))
    while not stage.steps_per_execution.settled:
        stage.steps_per_execution.record(_seconds(bench, batch))
    wanted = round(SAMPLE_SECONDS / _seconds(bench, next(bench.batches())))
    return Bench(job, stage, min(max(wanted, LEAST_CALLS), MOST_CALLS))


def _seconds(bench: Bench, batch: Batch) -> float:
    """What a call takes."""
    return 1 / alternate({"call": Work(lambda: _step(bench, batch), 1)}, 1)["call"][0]


def _step(bench: Bench, batch: Batch) -> None:
    bench.stage.step(batch, bench.rates(batch.labels.shape[0]))
    tf.test.experimental.sync_devices()


def works(bench: Bench) -> dict[str, Work]:
    """`input`, `whole`, and the stages between them that a step of this phase has."""
    job, stage, size = bench.job, bench.stage, bench.job.recipe.batch_size
    batch = tf.nest.map_structure(lambda column: column[0], next(bench.batches()))

    def whole() -> None:
        for stacked in bench.batches():
            _step(bench, stacked)

    found = {"input": Work(lambda: _drain(bench.batches()), bench.images)}
    if stage.features:
        boundary = stage.features.restore(batch)
    else:
        numbers = stateless_random.uniform(
            0, stateless_random.AUGMENT, batch.views, batch.examples, job.augment.draws
        )
        found["augment"] = Work(
            lambda: _wait(stage.frozen_forward.augment(batch.inputs, numbers)), size
        )
        boundary = stage.frozen_forward.plain(batch.inputs)
        if stage.partition.frozen:
            found["trunk"] = Work(lambda: _wait(stage.frozen_forward.plain(batch.inputs)), size)
    found["tail"] = _tail(bench, batch._replace(inputs=tuple(boundary)))
    found["whole"] = Work(whole, bench.images)
    return found


def _tail(bench: Bench, batch: Batch) -> Work:
    """The step without anything below the tail, on a batch that lies ready."""
    step = dataclasses.replace(bench.stage.step, boundary=lambda batch: list(batch.inputs))
    stacked = tf.nest.map_structure(lambda column: tf.stack([column] * bench.steps), batch)

    def run() -> None:
        step(stacked, bench.rates(bench.steps))
        tf.test.experimental.sync_devices()

    return Work(run, bench.steps * bench.job.recipe.batch_size)


def bare_step(bench: Bench) -> Work:
    """The whole compiled step on batches that lie ready: what the loop can reach at best."""
    ready = list(itertools.islice(bench.batches(), LEAST_CALLS))
    count = sum(batch.labels.shape[0] for batch in ready)

    def run() -> None:
        for batch in ready:
            _step(bench, batch)

    return Work(run, count * bench.job.recipe.batch_size)


def _wait(result: Any) -> None:
    for tensor in tf.nest.flatten(result):
        tf.reshape(tensor, [-1])[:1].numpy()


def _drain(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def row(job: TrainJob, phase: Phase, repeats: int) -> Row:
    """All of it for one phase of one recipe."""
    hardware.reset_peak_memory()
    bench = prepare(job, phase)
    samples = alternate(works(bench), repeats)
    rates: Mapping[str, Rate] = {name: Rate.of(each) for name, each in samples.items()}
    return Row(
        backbone=job.recipe.backbone,
        image_size=job.recipe.image_size,
        batch_size=job.recipe.batch_size,
        precision=job.recipe.precision,
        phase=phase.name,
        stages={name: rate for name, rate in rates.items() if name != "whole"},
        whole=rates["whole"],
        shares_cores=not tf.config.list_physical_devices("GPU"),
        peak_memory=hardware.peak_memory(),
    )
