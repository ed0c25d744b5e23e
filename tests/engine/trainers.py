"""A small network made ready for one phase, and what a step has moved in it."""

import dataclasses

import numpy as np
import tensorflow as tf

from engine.core.recipe import Phase
from engine.frozen import trunk
from engine.frozen.forward import FrozenForward
from engine.frozen.precision import ComputeMode
from engine.models import freezing
from engine.optim import optimizers
from engine.training.metrics import MetricAccumulator
from engine.training.train_step import TrainStep
from tests.engine import small

RATE = tf.constant(0.1)
FLOAT32 = ComputeMode()


@dataclasses.dataclass
class Trainer:
    """A small network made ready for one phase."""

    net: object
    phase: Phase
    recipe: object
    class_weights: tuple = (1.0, 1.0, 1.0)
    augment: object = small.PLAIN
    scale_loss: bool = False
    mode: ComputeMode = FLOAT32
    extra: tuple = ()

    def __post_init__(self):
        self.metrics = MetricAccumulator()
        cut = freezing.partition_model(self.net, self.phase.trainable)
        self.partition = dataclasses.replace(cut, variables=[*cut.variables, *self.extra])
        options = dict(self.phase.options)
        variables = self.partition.variables
        factors = freezing.rate_factors(self.net, variables, self.phase.layer_decay)
        self.optimizer = optimizers.build(self.phase, options, variables, self.scale_loss, factors)
        fixed = trunk.compile_frozen(self.partition.trunk, FLOAT32)
        frozen_forward = FrozenForward(self.recipe.seed, self.augment, fixed)
        self.steps = TrainStep(
            recipe=self.recipe,
            phase=self.phase,
            partition=self.partition,
            mode=self.mode,
            boundary=frozen_forward.training,
            optimizer=self.optimizer,
            class_weights=list(self.class_weights),
            metrics=self.metrics,
        )

    def step(self, batch, rate):
        """One step alone."""
        self.steps(small.stacked(batch), tf.stack([rate]))


def trainer(trainable="head", optimizer="sgd", net=None, recipe=None, **changes) -> Trainer:
    """Fields of Phase go to the phase, all others to the Trainer."""
    known = {field.name for field in dataclasses.fields(Phase)} & set(changes)
    phase = Phase("test", trainable, 1, optimizer, **{key: changes.pop(key) for key in known})
    return Trainer(net or small.network(), phase, recipe or small.recipe(), **changes)


def moved(model, before) -> set[str]:
    pairs = zip(model.weights, before, strict=True)
    return {variable.path for variable, old in pairs if not np.array_equal(variable, old)}


def agree(ours, theirs, atol=1e-5) -> None:
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, err_msg=one.path)
