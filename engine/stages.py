"""A phase made ready: split, precision, what is kept, optimizer, compiled step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from engine import audit, checkpoints, draws, freezing, losses, optimizers, planning, recipes, steps
from engine import trunk as trunks
from engine.checkpoints import Progress
from engine.classifier import Classifier
from engine.decisions import Decisions
from engine.features import Features, Source
from engine.metrics import Totals
from engine.pace import Pace
from engine.precision import Program
from engine.rundir import RunDir
from engine.specs import Batch, Feed, Phase, Recipe
from engine.storage import Room, width
from engine.views import Views, of_phase
from engine.watching import Watch


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a run needs. augment is a `pipelines.augment.Augmentation`.

    room: where a trunk's outputs may be kept. steps_per_call: None to have it measured.
    profile_steps: the first and the last step that TensorFlow's profiler records, or None.
    """

    recipe: Recipe
    classifier: Classifier
    feed: Feed
    augment: Any
    run: RunDir
    watch: Watch
    room: Room = dataclasses.field(default_factory=lambda: Room(0))
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
    audit: audit.Audit

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


def begin(job: Job, phase: Phase, progress: Progress, saved: dict) -> Stage:
    """Splits the model for a phase, decides what is kept, builds optimizer and step.

    saved: the groups of arrays of a checkpoint that the phase goes on from, or empty.
    """
    recipe, feed = job.recipe, job.feed
    split = freezing.split(job.classifier, phase.trainable)
    lower, keep = _lower_part(job, phase, split)
    first_epoch = progress.phase_start // job.steps_per_epoch
    views = of_phase(phase, keep.views, first_epoch, recipe.batch_size)
    features = _features(job, lower, keep, views)
    row_bytes = lower.row_bytes if features else 3 * math.prod(recipe.image_size)
    optimizer = optimizers.build(
        phase,
        recipes.options(phase).optimizer,
        split.variables,
        scale_loss=recipe.precision == "mixed_float16",
    )
    totals = Totals()
    if saved:
        checkpoints.restore(
            optimizer.variables, saved.get("optimizer", []), str(job.run.checkpoints)
        )
        totals.sums.assign(saved["totals"][0])
    upper = upper_program(recipe)
    training = steps.Training(
        recipe=recipe,
        phase=phase,
        split=split,
        program=upper,
        lower=features.restore if features else lower.drawn,
        optimizer=optimizer,
        class_weights=losses.class_weights(recipe.class_weights, feed.class_counts),
        totals=totals,
    )
    return Stage(
        training=training,
        lower=lower,
        step=steps.make_train_step(training),
        eval_step=steps.make_upper_step(split, upper),
        rate=recipes.rate(phase, job.steps_per_epoch),
        views=views,
        features=features,
        validation=_validation(feed, lower, keep),
        pace=Pace(job.steps_per_call, recipe.batch_size * row_bytes),
        first_step=progress.step,
        audit=audit.Audit(job.classifier.model, split, phase),
    )


def upper_program(recipe: Recipe) -> Program:
    """How the tail is computed: as the recipe says, and in float32 where it leaves that open."""
    return Program(
        "float32" if recipe.precision == "auto" else recipe.precision, recipe.xla == "on"
    )


@dataclasses.dataclass(frozen=True)
class Lower:
    """The frozen part with what comes before it, compiled.

    plain(images): uint8 [B, H, W, 3] -> the trunk's outputs, a list.
    augmented(images, numbers): the same after the augmentation with these draws.
    drawn(batch): the same with the draws that belong to the batch's examples and views.
    outputs: shape without the batch and type of each output.
    """

    plain: Callable[[Any], list]
    augmented: Callable[[Any, Any], list]
    drawn: Callable[[Batch], list]
    outputs: list[planning.Output]

    @property
    def row_bytes(self) -> int:
        """Of the outputs for one picture."""
        return sum(math.prod(shape) * width(dtype) for shape, dtype in self.outputs)


def make_lower(recipe: Recipe, augment: Any, trunk: Any) -> Lower:
    """trunk: see `trunk.specialise`. augment: anything with `draws` and `apply`."""

    @tf.function(autograph=False)
    def plain(images: tf.Tensor) -> list:
        return trunk(tf.cast(images, tf.float32))

    @tf.function(autograph=False)
    def augmented(images: tf.Tensor, numbers: tf.Tensor) -> list:
        return trunk(augment.apply(images, numbers))

    def drawn(batch: Batch) -> list:
        numbers = draws.uniform(
            recipe.seed, draws.AUGMENT, batch.views, batch.examples, augment.draws
        )
        return augmented(batch.inputs, numbers)

    tensors = trunk.get_concrete_function().structured_outputs
    outputs = [(tuple(tensor.shape[1:]), tensor.dtype.name) for tensor in tensors]
    return Lower(plain, augmented, drawn, outputs)


def _lower_part(job: Job, phase: Phase, split: freezing.Split) -> tuple[Lower, planning.Keep]:
    """The frozen part in its fastest precision, and what of it is kept; as decided before."""
    recipe, decisions = job.recipe, Decisions(job.run)
    program, rate = upper_program(recipe), 1.0
    if split.frozen:
        trial = decisions.trunk(recipe, phase, split, job.feed, job.watch)
        program, rate = trial.program, trial.images_per_second
    lower = make_lower(recipe, job.augment, trunks.specialise(split.trunk, program))
    if phase.name not in decisions.keeps:
        asked = planning.Question(
            recipe=recipe,
            phase=phase,
            feed=job.feed,
            outcomes=job.augment.outcomes,
            outputs=lower.outputs,
            frozen=split.frozen,
            head_only=phase.trainable == "head",
            images_per_second=rate,
        )
        keep = planning.decide(asked, job.room)
        decisions.keep(phase.name, keep)
        if keep.slots:
            job.watch.note(f"phase {phase.name}: keeps {keep.reason}")
    return lower, decisions.keeps[phase.name]


def _features(job: Job, lower: Lower, keep: planning.Keep, views: Views) -> Features | None:
    if not keep.slots:
        return None
    source = Source(job.feed, lower.augmented, job.augment, job.recipe.seed)
    try:
        return Features(source, views, keep.slots, lower.outputs, dataclasses.replace(job.room))
    except OSError as error:
        job.watch.note(f"the trunk's outputs can't be kept ({error}); each step works them out")
        return None


def _validation(feed: Feed, lower: Lower, keep: planning.Keep) -> Callable[[], Iterable[Batch]]:
    def worked_out() -> Iterator[Batch]:
        for batch in feed.once("validation"):
            yield batch._replace(inputs=lower.plain(batch.inputs))

    if not keep.validation:
        return worked_out
    kept: list[Batch] = []

    def once_only() -> list[Batch]:
        if not kept:
            kept.extend(tf.nest.map_structure(np.asarray, batch) for batch in worked_out())
        return kept

    return once_only
