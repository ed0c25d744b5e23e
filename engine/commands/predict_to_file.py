"""Predicts any number of images into a file, and resumes a file that was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.commands.predict import PredictOptions, load_predictor, open_images
from engine.inference import predictions_file
from engine.inference.predictions_file import PredictionCounts, PredictionsFile, PredictionsRequest
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown
from pipelines.predict import fetch, find_images

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor


class Progress(Protocol):
    """What is told how far the predictions are."""

    def start(self, total: int, counts: PredictionCounts) -> None:
        """Called once; `counts` grows from then on."""

    def note(self, line: str) -> None:
        """A sentence for the user."""

    def update(self) -> None:
        """Called after each group of images."""


class NoProgress:
    """Drops everything."""

    def start(self, total: int, counts: PredictionCounts) -> None: ...
    def note(self, line: str) -> None: ...
    def update(self) -> None: ...


def predict_to_file(
    options: PredictOptions,
    path: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    shutdown: Shutdown | None = None,
) -> PredictionCounts:
    """Writes a row for each image, and returns how many there are.

    Args:
      path: ends with .csv or .jsonl.
      overwrite: start over, and replace the file.
      shutdown: what may request an end from outside.

    Raises:
      UserError: the file can't be written or belongs to something else, or there is no such image.
      ShutdownRequested: an end was requested; the same call continues after the rows so far.
    """
    progress, shutdown = progress or NoProgress(), shutdown or Shutdown()
    request = _request(options, overwrite)
    begun = predictions_file.begun(path, request, overwrite)
    if begun is None:
        request = dataclasses.replace(request, places=tuple(find_images.find(options.images)))
    else:
        request = begun
    stretch = find_images.stretch(options.batch_size)
    rows = PredictionsFile(path, request, options.batch_size, stretch, going_on=begun is not None)
    with shutdown.unmasked(), rows as file:
        threads = tensorflow_setup.start_tensorflow(options.threads, log=progress.note)
        model = load_predictor(options)
        progress.start(len(request.places), file.tally)
        _predict_rest(options, model, file, threads, progress, shutdown)
        shutdown.disarm()
    return file.tally


def _request(options: PredictOptions, overwrite: bool) -> PredictionsRequest:
    """What the options ask for, before it is known which images they mean."""
    paths = {word: os.path.abspath(word) for word in options.images if not fetch.is_url(word)}
    names = ("top_k", "precision", "batch_size", "tta", "allow_private_urls")
    return PredictionsRequest(
        model=_model_digests(options),
        words=tuple(paths.get(word, word) for word in options.images),
        options={name: getattr(options, name) for name in names},
        replaces=overwrite,
        folder="" if all(map(os.path.isabs, paths)) else os.getcwd(),
    )


def _model_digests(options: PredictOptions) -> dict[str, str]:
    """What tells the model from others: the digests of its files, or a network's name."""
    if not options.run:
        return {"backbone": options.backbone}
    options.run.read_recipe()
    files = [path for path in (options.run.recipe, options.run.best) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _predict_rest(
    options: PredictOptions,
    model: Predictor,
    file: PredictionsFile,
    threads: int,
    progress: Progress,
    shutdown: Shutdown,
) -> None:
    """Predicts the images that the file lacks."""
    from engine.frozen.precision import ComputeMode
    from engine.inference import batch_predict, predictor
    from engine.inference import predict as inference

    places = file.order.places
    stream = open_images(options, places, model, threads)
    # A signal that raised in the midst of TensorFlow's own errors would come out as one of them.
    with shutdown.deferred():
        groups: Any = shutdown.check_each(stream.groups(file.batch_size, file.tally.rows))
        if file.order.program:
            progress.note(f"resuming after {file.tally.rows:,} of {len(places):,} images")
            model = predictor.in_program(model, ComputeMode(**file.order.program))
        else:
            if options.precision == "auto":
                model, groups = batch_predict.fastest(model, groups, len(places), progress.note)
            file.begin(dataclasses.asdict(model.program))
        progress.note(f"computing in {model.program}")
        for group in groups:
            file.add(inference.answers(model, group, file.batch_size, file.top))
            progress.update()
        file.finish()
