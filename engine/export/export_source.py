"""Records of an export: the model that is exported, and the format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evaluation.decision_rule import DecisionRule

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun

UNCERTAIN = "uncertain"  # in place of a label where the rule abstains
INT8, FLOAT16, FLOAT32 = "int8", "float16", "float32"
PRECISIONS = (FLOAT32, FLOAT16, INT8)

# Images -> probabilities, float32 [B, classes], and decisions, int [B]: class indices, -1 for
# uncertain. Images are uint8 [B, H, W, 3], or B encoded files where the format `takes_bytes`.
PredictFunction = Callable[[Any], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """A run's best model and how to export it.

    decode: the bytes of one image, string scalar -> uint8 [H, W, 3], in graph operations.
    precision: one of the format's precisions.
    calibration_images: uint8 [N, H, W, 3], training images that calibrate int8; otherwise None.
    threads: CPU threads of the exported model in the comparison.
    """

    loaded_run: LoadedRun
    decode: Callable[[Any], Any]
    precision: str = FLOAT32
    calibration_images: np.ndarray | None = None
    threads: int = 1

    @property
    def classes(self) -> tuple[str, ...]:
        return self.loaded_run.classes

    @property
    def rule(self) -> DecisionRule:
        return self.loaded_run.rule

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return (*self.loaded_run.recipe.image_size, 3)


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """An export format.

    title: the name shown to users.
    path: of the model, within the output folder.
    write(source, path): writes the file or folder.
    load(source, path): opens it without any code of this project.
    usage(source): inputs, outputs and a program for the model card, in Markdown.
    precisions: allowed precisions, the default first.
    takes_bytes: whether its input is encoded images, not pixels.
    """

    title: str
    path: str
    write: Callable[[ExportSource, Path], None]
    load: Callable[[ExportSource, Path], PredictFunction]
    usage: Callable[[ExportSource], str]
    precisions: Sequence[str] = (FLOAT32,)
    takes_bytes: bool = False


def model_info(source: ExportSource) -> dict[str, Any]:
    """Returns what a caller needs besides the network, as JSON types."""
    recipe = source.loaded_run.recipe
    return {
        "labels": list(source.classes),
        "temperature": source.rule.temperature,
        "rule": dataclasses.asdict(source.rule),
        "image_size": list(recipe.image_size),
        "resize": recipe.resize,
        "backbone": recipe.backbone,
    }


def model_info_json(source: ExportSource) -> str:
    """Returns `model_info` as ASCII JSON, which keeps names that are not valid UTF-8."""
    return json.dumps(model_info(source), indent=2) + "\n"
