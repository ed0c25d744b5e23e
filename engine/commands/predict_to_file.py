"""Predicts any number of images into a file, and resumes a file that was interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.predict import PredictOptions, load_predictor, open_images
from engine.commands.prediction_progress import PredictionProgress
from engine.inference import predictions_file
from engine.inference.predictions_file import PredictionCounts, PredictionsFile, PredictionsRequest
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown
from pipelines.predict import fetch, list_inputs

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor


def predict_to_file(
    options: PredictOptions,
    path: Path,
    overwrite: bool,
    progress: PredictionProgress,
    shutdown: Shutdown,
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
    request = _request(options, overwrite)
    interrupted = predictions_file.find_interrupted(path, request, overwrite)
    if interrupted is None:
        paths = list_inputs.list_inputs(options.images, progress.note, options.allow_private_urls)
        request = dataclasses.replace(request, paths=tuple(paths))
    else:
        request = interrupted
    rows = PredictionsFile(path, request, resume=interrupted is not None)
    with shutdown.unmasked(), rows as file:
        threads = tensorflow_setup.start_tensorflow(options.threads, log=progress.note)
        model = load_predictor(options)
        progress.start(len(request.paths), file.counts)
        _predict_rest(options, model, file, threads, progress, shutdown)
        shutdown.disarm()
    return file.counts


def _request(options: PredictOptions, overwrite: bool) -> PredictionsRequest:
    """What the options ask for, before it is known which images they mean."""
    paths = {word: os.path.abspath(word) for word in options.images if not fetch.is_url(word)}
    names = ("top_k", "precision", "batch_size", "tta", "allow_private_urls")
    return PredictionsRequest(
        model=_model_digests(options),
        inputs=tuple(paths.get(word, word) for word in options.images),
        options={name: getattr(options, name) for name in names},
        overwrite=overwrite,
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
    progress: PredictionProgress,
    shutdown: Shutdown,
) -> None:
    """Predicts the images that the file lacks."""
    from engine.frozen.precision import ComputeMode
    from engine.inference.predictions import predict_group
    from engine.inference.predictor import choose_fastest_mode

    paths, batch_size = file.request.paths, options.batch_size
    stream = open_images(options, paths, model, threads)
    # A signal that raised in the midst of TensorFlow's own errors would come out as one of them.
    with shutdown.deferred():
        groups: Any = shutdown.check_each(stream.groups(batch_size, file.counts.rows))
        if file.request.program:
            progress.note(f"resuming after {file.counts.rows:,} of {len(paths):,} images")
            model = model.in_mode(ComputeMode(**file.request.program))
        else:
            if options.precision == "auto":
                model, groups = choose_fastest_mode(model, groups, len(paths), progress.note)
            file.begin(dataclasses.asdict(model.mode))
        progress.note(f"computing in {model.mode}")
        for group in groups:
            file.add(predict_group(model, group, batch_size, file.top_k))
            progress.update()
        file.finish()
