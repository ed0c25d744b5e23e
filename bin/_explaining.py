"""`--explain`: a plot that shows what in each picture speaks for its likeliest label."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import _flags
from absl import flags

from engine.rundir import RunDir

if TYPE_CHECKING:
    from engine.prediction import Answer, Predictor


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_bool(
        "explain", False, "show in --plot, by Grad-CAM, what speaks for the likeliest label", values
    )


def check(parsed: _flags.Parsed) -> None:
    """
    Raises:
      FlagError: there is no plot to explain in.
    """
    if parsed.explain and not parsed.plot:
        raise _flags.FlagError("--explain draws into a plot; give --plot=FILE.png with it")


def plot(parsed: _flags.Parsed, model: Predictor, answers: list[Answer]) -> bytes:
    """The answers that the model gave, explained, as PNG."""
    from engine import plots

    shown = [(one, one.image) for one in answers if one.image is not None][: plots.MOST]
    seen = _overlays(parsed, model, [image for _, image in shown])
    return plots.explanations(
        [
            (one.path, image, over, one.labels)
            for (one, image), over in zip(shown, seen, strict=True)
        ]
    )


def _overlays(parsed: _flags.Parsed, model: Predictor, images: list) -> Iterator:
    """uint8 [H, W, 3] for each of the pictures, some at a time."""
    import numpy as np

    from engine import gradcam, runs

    if parsed.run_dir:
        heat_of = gradcam.make(runs.reopen(RunDir(Path(parsed.run_dir))).classifier)
    else:
        heat_of = gradcam.make_imagenet(parsed.backbone)
    for start in range(0, len(images), parsed.batch_size):
        some = np.stack(images[start : start + parsed.batch_size])
        # Not by the label's name: two classes of ImageNet are a `crane`.
        likeliest = model.probabilities(some).numpy().argmax(-1)
        yield from map(gradcam.overlay, some, heat_of(some, likeliest))
