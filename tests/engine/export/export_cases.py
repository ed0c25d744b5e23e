"""Small models to export, and their expected predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import scipy.special

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.export.export_source import FLOAT32, ExportSource
from engine.models.classifier import Classifier
from engine.runs.load_run import LoadedRun
from pipelines.decode.decode import decode
from tests.engine import small

CLASSES = ("cats", "dogs", "newts")
ODD_NAMES = ("naïve, 猫", "two\nlines\t<b>|$x$_", "caf\udce9 \\n")
RULES = {
    "plain": DecisionRule(),
    "tempered": DecisionRule(temperature=2.5),
    "sharp": DecisionRule(temperature=0.4, positive_class="dogs", threshold=0.1),
    "eager": DecisionRule(temperature=5, positive_class="dogs", threshold=0.1),
    "shy": DecisionRule(temperature=1.5, abstain=0.55),
    "both": DecisionRule(temperature=0.7, positive_class="newts", threshold=0.3, abstain=0.58),
}


def export_source(
    rule: DecisionRule = RULES["tempered"],
    classes: tuple[str, ...] = CLASSES,
    network: Classifier | None = None,
    precision: str = FLOAT32,
    calibration_images: np.ndarray | None = None,
    **changes,
) -> ExportSource:
    """Returns the small network as an export source; its predictions differ between images.

    changes: of the recipe.
    """
    if network is None:
        network = small.network()
        small.enliven(network.model)
        kernel, bias = network.head.get_weights()
        network.head.set_weights([8 * kernel, bias])
        logits = network.model(small.smooth_images(small.SIDE)).numpy()
        network.head.set_weights([8 * kernel, bias - logits.mean(0)])
    recipe = small.recipe(**{"image_size": network.model.input.shape[1:3], **changes})
    loaded_run = LoadedRun(recipe, network, classes, rule)
    return ExportSource(
        loaded_run,
        lambda contents: decode(contents, *recipe.image_size, recipe.resize, alone=False),
        precision,
        calibration_images,
    )


def rectangular_network() -> Classifier:
    """Builds a network with a 10 x 6 input and a hidden layer."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((10, 6, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, -1, name="scale")(pixels)
    features = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Conv2D(8, 3)(x))
    vector = keras.layers.Dense(5, "relu", name="hidden")(features)
    head = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(0, 3))
    return Classifier(keras.Model(pixels, head(vector)), features, vector, head, {})


def smooth_images(count: int, side: int = small.SIDE) -> np.ndarray:
    """Returns uint8 [count, side, side, 3], repeating eight different images."""
    return np.resize(small.smooth_images(side), (count, side, side, 3)).astype(np.uint8)


def expected_probabilities(source: ExportSource, images: np.ndarray) -> np.ndarray:
    """Computes float64 [B, classes] by Keras and SciPy."""
    logits = source.loaded_run.model(images.astype(np.float32), training=False).numpy()
    return scipy.special.softmax(logits.astype(np.float64) / source.rule.temperature, -1)


def require_predictions(source, images: np.ndarray, outputs, tolerance: float = 1e-5) -> None:
    """Requires probabilities as by Keras and SciPy, and decisions as by the rule in NumPy."""
    probabilities, decisions = outputs
    difference = np.abs(probabilities - expected_probabilities(source, images)).max()
    assert difference < tolerance
    expected = decision_rule.decide(source.rule, source.classes, np.asarray(probabilities))
    np.testing.assert_array_equal(decisions, expected)


def run_outside_project(code: str, *arguments, cwd: Path) -> str:
    """Runs a program without access to this project; returns what it prints."""
    code = f"import importlib.util as u; assert not u.find_spec('engine')\n{code}"
    command = [sys.executable, "-I", "-c", code, *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout
