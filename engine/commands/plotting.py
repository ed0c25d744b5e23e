"""`--plot` and `--explain`: images beside their answers, and what in them speaks for these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from engine.cli import flags as cli_flags
from engine.core.text import printable
from engine.runs import load
from engine.runs.directory import RunDirectory

if TYPE_CHECKING:
    import numpy as np

    from engine.inference.predict import Prediction
    from engine.inference.predictor import Predictor
    from engine.loggers.plots import PlottedPrediction

    Spoken = tuple[np.ndarray, str]  # see `Shown`


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "plot", None, "write each image beside its bars, as PNG")
    flags.DEFINE_bool(
        "explain", False, "show in --plot, by Grad-CAM, what speaks for each answer", values
    )


def check(parsed: cli_flags.Parsed) -> None:
    """
    Raises:
      FlagError: there is no plot to explain in.
    """
    if parsed.explain and not parsed.plot:
        raise cli_flags.FlagError("--explain draws into a plot; give --plot=FILE.png with it")


def plot(parsed: cli_flags.Parsed, model: Predictor, answers: list[Prediction]) -> bytes:
    """The answers that the model gave, with their images, as PNG."""
    from engine.loggers import plots

    seen = [(one, one.image) for one in answers if one.image is not None][: plots.MAX_IMAGES]
    spoken: Iterable[Spoken | None] = [None] * len(seen)
    if parsed.explain:
        spoken = _speaking(parsed, model, [image for _, image in seen])
    decides = model.rule.overrides_argmax
    return plots.predictions(
        [
            _shown(one, image, decides, speaks)
            for (one, image), speaks in zip(seen, spoken, strict=True)
        ]
    )


def _shown(
    answer: Prediction, image: np.ndarray, decides: bool, speaks: Spoken | None
) -> PlottedPrediction:
    from engine.loggers import plots

    labels = [(printable(label), share) for label, share in answer.labels]
    decision = printable(answer.decision or "uncertain") if decides else None
    return plots.PlottedPrediction(printable(answer.path), image, labels, decision, speaks)


def _speaking(
    parsed: cli_flags.Parsed, model: Predictor, images: list[np.ndarray]
) -> Iterator[Spoken]:
    """What speaks for the answer to each image, uint8 [H, W, 3], and its name; some at a time.

    For the likeliest label where the rule leaves it uncertain.
    """
    import numpy as np

    from engine.evaluation import decision_rule
    from engine.inference import gradcam

    if parsed.run_dir:
        heat_of = gradcam.make(load.load_run(RunDirectory(Path(parsed.run_dir))).classifier)
    else:
        heat_of = gradcam.make_imagenet(parsed.backbone)
    for start in range(0, len(images), parsed.batch_size):
        some = np.stack(images[start : start + parsed.batch_size])
        chances = model.probabilities(some).numpy()
        # Not by the label's name: two classes of ImageNet are a `crane`.
        decided = decision_rule.decide(model.rule, model.classes, chances)
        explained = np.where(decided == decision_rule.UNCERTAIN, chances.argmax(-1), decided)
        seen = map(gradcam.overlay, some, heat_of(some, explained))
        yield from zip(seen, (printable(model.classes[n]) for n in explained), strict=True)
