"""What is exported, and what a format of exports is."""

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

UNCERTAIN = "uncertain"  # stands for a label where the rule leaves an answer open
INT8, FLOAT16, FLOAT32 = "int8", "float16", "float32"
PRECISIONS = (FLOAT32, FLOAT16, INT8)
BYTES, PIXELS = "bytes", "pixels"

# What goes into an export -> probabilities, float32 [B, classes], and the index of each answer or
# -1, int [B]. What goes in: encoded images, B of them, or uint8 [B, H, W, 3], as its format says.
Answer = Callable[[Any], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """A run's best model, on its way out.

    decode: the bytes of one image, string scalar -> uint8 [H, W, 3], in graph operations.
    precision: one of those of the format.
    samples: uint8 [N, H, W, 3], training images that int8 is calibrated with; None elsewhere.
    threads: what is computed on when the export is tried.
    """

    opened: LoadedRun
    decode: Callable[[Any], Any]
    precision: str = FLOAT32
    samples: np.ndarray | None = None
    threads: int = 1

    @property
    def classes(self) -> tuple[str, ...]:
        return self.opened.classes

    @property
    def rule(self) -> DecisionRule:
        return self.opened.rule

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that enter the network."""
        return (*self.opened.recipe.image_size, 3)


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """One way out.

    title: in words. path: of the model, below the folder of the export.
    takes: `bytes` (encoded images) or `pixels`.
    precisions: what it can be written in, the usual first.
    write(subject, path): makes the file or the folder.
    load(subject, path): opens it as a stranger would.
    usage(subject): how it is fed, for the model card, in Markdown.
    """

    title: str
    path: str
    takes: str
    write: Callable[[ExportSource, Path], None]
    load: Callable[[ExportSource, Path], Answer]
    usage: Callable[[ExportSource], str]
    precisions: Sequence[str] = (FLOAT32,)


def facts(subject: ExportSource) -> dict[str, Any]:
    """What a stranger has to know of the model beside its arithmetic; JSON has it all."""
    recipe = subject.opened.recipe
    return {
        "labels": list(subject.classes),
        "temperature": subject.rule.temperature,
        "rule": dataclasses.asdict(subject.rule),
        "image_size": list(recipe.image_size),
        "resize": recipe.resize,
        "backbone": recipe.backbone,
    }


def facts_json(subject: ExportSource) -> str:
    """`facts` in letters of ASCII, so that names which are no UTF-8 come back as they were."""
    return json.dumps(facts(subject), indent=2) + "\n"


def encoded(name: str) -> bytes:
    """A label as the bytes that a graph holds; the odd bytes of a folder's name as they were."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UserError(
            f"class {name!r} can't be written as text; rename it and train anew"
        ) from None
