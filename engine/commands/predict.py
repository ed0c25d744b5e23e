"""Predicts the classes of images by a run's best model or a pretrained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.shared_options import Log, ProcessOptions, ignore, tta_option
from engine.core.errors import require
from engine.core.files import write_output
from engine.core.options import option
from engine.core.text import printable
from engine.evaluation.decision_rule import DecisionRule
from engine.inference.predictions import Prediction
from engine.models.backbones import BACKBONES
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from pipelines.predict import list_inputs

if TYPE_CHECKING:
    import numpy as np

    from engine.inference.predictor import Predictor
    from engine.loggers.plots import PlottedPrediction

    Explanation = tuple[np.ndarray, str]  # an image with its heat map, and the explained class

PRECISIONS = ("float32", "auto")


@dataclasses.dataclass(frozen=True)
class PredictOptions(ProcessOptions):
    """What predicts which images, and how.

    images: files, folders and http(s) addresses.
    top_k: how many classes each prediction has, the most probable ones.
    precision: of the arithmetic, one of PRECISIONS; auto for the fastest on these images.
    """

    images: tuple[str, ...]
    run_dir: Path | None = option(None, "the run whose best model predicts")
    backbone: str = option(
        "efficientnet_lite0",
        "without --run_dir: the network that predicts the 1,000 ImageNet classes",
        choices=BACKBONES,
    )
    top_k: int = option(5, minimum=1)
    tta: str | int | None = tta_option()
    precision: str = option("float32", choices=PRECISIONS)
    batch_size: int = option(32, "images at a time", minimum=1)
    allow_private_urls: bool = option(False, "fetch addresses that are not on the public internet")
    plot: Path | None = option(None, "write each image beside its bars, as PNG")
    explain: bool = option(False, "show in --plot, by Grad-CAM, what speaks for each prediction")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.images), "no image is named; give files, folders or http(s) addresses")
        require(
            not self.explain or self.plot is not None,
            "--explain draws into a plot; give --plot=FILE.png with it",
        )
        require(
            self.tta in (None, "flip") or self.run_dir is not None,
            f"--tta={self.tta} draws from a run's augmentation; give --run_dir, or --tta=flip",
        )

    @property
    def run(self) -> RunDirectory | None:
        return RunDirectory(Path(self.run_dir)) if self.run_dir else None


@dataclasses.dataclass(frozen=True)
class PredictResult:
    """Predictions in the order of the images, and the rule that decided them."""

    predictions: list[Prediction]
    rule: DecisionRule


def predict(options: PredictOptions, log: Log = ignore) -> PredictResult:
    """Predicts every image; one that can't be read has its problem in place of labels.

    Raises:
      UserError: there is no such image or run, or the plot can't be written.
    """
    paths = list_inputs.list_inputs(options.images, log, options.allow_private_urls)
    threads = tensorflow_setup.start_tensorflow(options.threads, log=log)

    from engine.inference import predictions as inference
    from engine.inference import predictor

    model = load_predictor(options)
    groups: Any = open_images(options, paths, model, threads).groups(options.batch_size)
    if options.precision == "auto":
        model, groups = predictor.choose_fastest_mode(model, groups, len(paths), log)
    predictions = list(
        inference.predict(model, groups, options.batch_size, options.top_k, bool(options.plot))
    )
    if options.plot:
        write_output(Path(options.plot), _plot(options, model, predictions), "plot")
    return PredictResult(predictions, model.rule)


def load_predictor(options: PredictOptions) -> Predictor:
    """
    Raises:
      UserError: there is no run, it has no model yet, or weights can't be fetched.
    """
    from engine.inference import predictor

    run = options.run
    model = predictor.from_run(run) if run else predictor.from_imagenet(options.backbone)
    return _with_tta(model, options) if options.tta else model


def open_images(
    options: PredictOptions, paths: Sequence[str], model: Predictor, threads: int
) -> Any:
    """The `ImageStream` of these paths, decoded for the model."""
    from pipelines.predict.image_stream import ImageStream

    return ImageStream(
        paths,
        model.image_size,
        model.resize,
        threads,
        options.allow_private_urls,
        tensorflow_setup.prefetch_device(),
    )


def _with_tta(model: Predictor, options: PredictOptions) -> Predictor:
    from engine.inference import tta
    from pipelines.augment import augmentations

    recipe = options.run.read_recipe() if options.run else None
    augmentation = augmentations.compose(recipe.augment if recipe else ())
    views = tta.make_views(options.tta or tta.FLIP, augmentation, recipe.seed if recipe else 0)
    return tta.average_predictor(model, views)


def _plot(options: PredictOptions, model: Predictor, predictions: Sequence[Prediction]) -> bytes:
    """The first images that could be read beside their predictions, as PNG."""
    from engine.loggers import plots

    readable = [(one, one.image) for one in predictions if one.image is not None][
        : plots.MAX_IMAGES
    ]
    explanations: Iterable[Explanation | None] = [None] * len(readable)
    if options.explain:
        explanations = _explain(options, model, [image for _, image in readable])
    decides = model.rule.overrides_argmax
    return plots.predictions(
        [
            _plotted(prediction, image, decides, explanation)
            for (prediction, image), explanation in zip(readable, explanations, strict=True)
        ]
    )


def _plotted(
    prediction: Prediction, image: np.ndarray, decides: bool, explanation: Explanation | None
) -> PlottedPrediction:
    from engine.loggers import plots

    labels = [(printable(label), share) for label, share in prediction.labels]
    decision = printable(prediction.decision or "uncertain") if decides else None
    return plots.PlottedPrediction(printable(prediction.path), image, labels, decision, explanation)


def _explain(
    options: PredictOptions, model: Predictor, images: Sequence[np.ndarray]
) -> Iterator[Explanation]:
    """The decided class of each image, uint8 [H, W, 3], and what in the image speaks for it.

    The likeliest class where the rule leaves the image uncertain.
    """
    import numpy as np

    from engine.evaluation import decision_rule
    from engine.inference import gradcam
    from engine.runs.load_run import load_run

    if options.run:
        heat_maps = gradcam.from_classifier(load_run(options.run).classifier)
    else:
        heat_maps = gradcam.from_imagenet(options.backbone)
    for start in range(0, len(images), options.batch_size):
        batch = np.stack(images[start : start + options.batch_size])
        probabilities = model.probabilities(batch).numpy()
        # Not by the label's name: two classes of ImageNet are a `crane`.
        decided = decision_rule.decide(model.rule, model.classes, probabilities)
        uncertain = decided == decision_rule.UNCERTAIN
        explained = np.where(uncertain, probabilities.argmax(-1), decided)
        overlays = map(gradcam.overlay, batch, heat_maps(batch, explained))
        yield from zip(overlays, (printable(model.classes[n]) for n in explained), strict=True)
