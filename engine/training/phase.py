"""A phase made ready: split, precision, what is kept, optimizer, compiled step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, Feed
from engine.core.recipe import Phase, Recipe
from engine.frozen import cache_policy, precision
from engine.frozen.array_store import Room
from engine.frozen.autotune import Decisions
from engine.frozen.cache_policy import Keep
from engine.frozen.feature_cache import Features, Source
from engine.frozen.forward import Lower, make_lower
from engine.frozen.precision import Program
from engine.frozen.view_schedule import Views, of_phase
from engine.frozen.warmup import Early
from engine.loggers.base import Watch
from engine.models import freezing
from engine.models.classifier import Classifier
from engine.optim import losses, optimizers
from engine.optim import options as recipes
from engine.runs import checkpoints
from engine.runs.checkpoints import Progress
from engine.runs.directory import RunDir
from engine.runtime import background
from engine.runtime.shutdown import Stop
from engine.training import freeze_check, steps
from engine.training.metrics import Totals
from engine.training.nan_recovery import Setback, slowed
from engine.training.steps_per_execution import Pace


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a run needs. augment is a `pipelines.augment.augment.Augmentation`.

    room: where a trunk's outputs may be kept. early: what is compiled already.
    steps_per_call: None to have it measured. profile_steps: the first and the last step that
    TensorFlow's profiler records, or None.
    """

    recipe: Recipe
    classifier: Classifier
    feed: Feed
    augment: Any
    run: RunDir
    watch: Watch
    room: Room = dataclasses.field(default_factory=lambda: Room(0))
    early: Early = dataclasses.field(default_factory=Early)
    stop: Stop = dataclasses.field(default_factory=Stop)
    on_nan: str = "halve"
    checkpoint_minutes: float = 10.0
    log_steps: int = 10
    steps_per_call: int | None = None
    profile_steps: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.feed.train_examples // self.recipe.batch_size)


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a phase trains, with what, on what, and how it is measured.

    lower: the frozen part with what comes before it.
    features: the kept outputs of the trunk, or None where each step runs it.
    validation: the validation batches, with the trunk's outputs for inputs of `eval_step`.
    """

    training: steps.Training
    lower: Lower
    step: Callable[[Batch, tf.Tensor], None]
    eval_step: Callable[[Any, Any], tuple]
    rate: Callable[[int], float]
    views: Views
    features: Features | None
    validation: Callable[[], Iterable[Batch]]
    pace: Pace
    first_step: int
    audit: freeze_check.Audit
    decisions: Decisions

    @property
    def phase(self) -> Phase:
        return self.training.phase

    @property
    def split(self) -> freezing.Split:
        return self.training.split

    @property
    def optimizer(self) -> Any:
        return self.training.optimizer

    @property
    def totals(self) -> Totals:
        return self.training.totals

    def batches(
        self, feed: Feed, first: int, stop: int, per_call: int
    ) -> Generator[Batch, None, None]:
        lookup = self.features.lookup if self.features else None
        yield from feed.train(first, stop, per_call, self.views, lookup)


def begin(
    job: Job, phase: Phase, progress: Progress, saved: dict, before: Sequence[Setback] = ()
) -> Stage:
    """Splits the model for a phase, decides what is kept, builds optimizer and step.

    saved: the groups of arrays of a checkpoint that the phase goes on from, or empty.
    before: the run's setbacks.
    """
    recipe = job.recipe
    split = freezing.split(job.classifier, phase.trainable)
    made = Decisions(job.run, job.recipe)
    lower = _lower_part(job, phase, split, made)
    keep = _keep(job, phase, split, lower, made)
    first_epoch = progress.phase_start // job.steps_per_epoch
    views = of_phase(phase, keep.views, first_epoch, recipe.batch_size)
    features = _features(job, lower, keep, views)
    row_bytes = lower.row_bytes if features else 3 * math.prod(recipe.image_size)
    upper = _upper_program(job, phase, split, lower, made)
    below = features.restore if features else lower.drawn
    training = _training(job, phase, split, upper, below, saved)
    return Stage(
        training=training,
        lower=lower,
        step=steps.make_train_step(training),
        eval_step=steps.make_upper_step(split, upper),
        rate=slowed(recipes.rate(phase, job.steps_per_epoch), before, phase, progress.phase_start),
        views=views,
        features=features,
        validation=_validation(job, lower, keep),
        pace=Pace(job.steps_per_call, recipe.batch_size * row_bytes),
        first_step=progress.step,
        audit=freeze_check.Audit(job.classifier.model, split, phase),
        decisions=made,
    )


def _training(
    job: Job, phase: Phase, split: freezing.Split, upper: Program, lower: Callable, saved: dict
) -> steps.Training:
    """With an optimizer and the sums of an epoch: fresh, or as a checkpoint has them."""
    options, scale_loss = recipes.options(phase).optimizer, upper.dtype == "float16"
    optimizer = optimizers.build(phase, options, split.variables, scale_loss=scale_loss)
    totals = Totals()
    if saved:
        where = str(job.run.checkpoints)
        checkpoints.restore(optimizer.variables, saved.get("optimizer", []), where)
        checkpoints.restore(totals.variables, saved.get("totals", []), where)
    return steps.Training(
        recipe=job.recipe,
        phase=phase,
        split=split,
        program=upper,
        lower=lower,
        optimizer=optimizer,
        class_weights=losses.class_weights(job.recipe.class_weights, job.feed.class_counts),
        totals=totals,
    )


def _lower_part(job: Job, phase: Phase, split: freezing.Split, made: Decisions) -> Lower:
    """The frozen part in the precision that is fastest here."""
    make = job.early.make(phase, split)
    program = precision.candidates(job.recipe)[0]
    if split.frozen:
        programs = precision.candidates(job.recipe)
        program = made.program(_trunk_of(phase), programs, make, _pixels(job), job.watch).program
    return make_lower(job.recipe, job.augment, make(program))


def _trunk_of(phase: Phase) -> str:
    return f"frozen part below {phase.trainable}"


def _pixels(job: Job) -> Callable[[], tf.Tensor]:
    return lambda: tf.cast(_first(job).inputs, tf.float32)


def _first(job: Job) -> Batch:
    return next(iter(job.feed.once("train", [0])))


def _upper_program(
    job: Job, phase: Phase, split: freezing.Split, lower: Lower, made: Decisions
) -> Program:
    """How the tail is computed: what is fastest here for its way forth and back."""
    programs = precision.for_training(precision.candidates(job.recipe), split.tail)
    if len(programs) == 1:
        return programs[0]

    def make(program: Program) -> Callable[[list], list]:
        return steps.make_trial(job.recipe, phase, split, program)

    def boundary() -> list:
        return lower.plain(_first(job).inputs)

    what = f"trained part of {phase.name}"
    return made.program(what, programs, make, boundary, job.watch).program


def _keep(job: Job, phase: Phase, split: freezing.Split, lower: Lower, made: Decisions) -> Keep:
    """What is kept of the frozen part's outputs; as decided before, where that is written."""
    if phase.name not in made.keeps:
        tried = made.trials.get(_trunk_of(phase))
        asked = cache_policy.Question(
            recipe=job.recipe,
            phase=phase,
            feed=job.feed,
            outcomes=job.augment.outcomes,
            outputs=lower.outputs,
            frozen=split.frozen,
            head_only=phase.trainable == "head",
            images_per_second=precision.best(tried).images_per_second if tried else 1.0,
        )
        made.keep(phase.name, cache_policy.decide(asked, job.room))
        if made.keeps[phase.name].slots:
            job.watch.note(f"phase {phase.name}: keeps {made.keeps[phase.name].reason}")
    return made.keeps[phase.name]


def _features(job: Job, lower: Lower, keep: Keep, views: Views) -> Features | None:
    if not keep.slots:
        return None
    source = Source(job.feed, lower.augmented, job.augment, job.recipe.seed)
    try:
        return Features(source, views, keep.slots, lower.outputs, dataclasses.replace(job.room))
    except OSError as error:
        job.watch.note(f"the trunk's outputs can't be kept ({error}); each step works them out")
        return None


def _validation(job: Job, lower: Lower, keep: Keep) -> Callable[[], Iterable[Batch]]:
    def worked_out() -> Iterator[Batch]:
        for batch in job.stop.checked(job.feed.once("validation")):
            yield batch._replace(inputs=lower.plain(batch.inputs))

    if not keep.validation:
        return worked_out
    kept: list[Batch] = []

    def once_only() -> list[Batch]:
        if not kept:
            with background.kept():
                kept[:] = [tf.nest.map_structure(np.asarray, batch) for batch in worked_out()]
        return kept

    return once_only
