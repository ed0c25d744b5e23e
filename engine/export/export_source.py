"""Records of an export: the model that is exported, and the format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun

UNCERTAIN = "uncertain"  # in place of a label where the rule abstains
INT8, FLOAT16, FLOAT32 = "int8", "float16", "float32"
PRECISIONS = (FLOAT32, FLOAT16, INT8)
BYTES, PIXELS = "bytes", "pixels"

# Images -> probabilities, float32 [B, classes], and decisions, int [B]: class indices, -1 for
# uncertain. Images are B encoded files or uint8 [B, H, W, 3], by the format's `input_kind`.
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
    input_kind: BYTES (encoded images) or PIXELS.
    write(source, path): writes the file or folder.
    load(source, path): opens it without any code of this project.
    usage(source): inputs, outputs and a program for the model card, in Markdown.
    precisions: allowed precisions, the default first.
    """

    title: str
    path: str
    input_kind: str
    write: Callable[[ExportSource, Path], None]
    load: Callable[[ExportSource, Path], PredictFunction]
    usage: Callable[[ExportSource], str]
    precisions: Sequence[str] = (FLOAT32,)


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


def encode_label(name: str) -> bytes:
    """Encodes a label for a graph; keeps bytes of a folder's name that are not valid UTF-8."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UserError(
            f"class {name!r} can't be encoded as text; rename it and train again"
        ) from None
