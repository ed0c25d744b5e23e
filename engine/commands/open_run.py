"""A run opened from Python: recipe, history, result, the model, and what it predicts."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.runs.directory import RunDirectory
from engine.runs.history import read_history

if TYPE_CHECKING:
    import keras

    from engine.inference.predictor import Predictor
    from engine.runs.load_run import LoadedRun

# A file, the bytes of one, or uint8 [H, W, 3] pixels in RGB, 0 to 255, of any size.
Image = str | os.PathLike | bytes | np.ndarray


class Run:
    """A run directory opened for reading. Nothing is read before it is asked for.

    Attributes:
      path: the run directory.
    """

    def __init__(self, run_dir: str | os.PathLike) -> None:
        """Raises:
        UserError: there is no run.
        """
        self._directory = RunDirectory(Path(run_dir))
        self.path = self._directory.path
        self._directory.read_recipe()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def recipe(self) -> Recipe:
        return self._directory.read_recipe()

    @property
    def result(self) -> dict[str, Any]:
        """The values of `result.json`; empty where the run has not ended."""
        return self._directory.read_result()

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row per epoch by the columns of `history.csv`, oldest first; `phase` is text, `epoch`,
        `step` and `resident_bytes` are int, the others float.
        """
        if not self._directory.history.is_file():
            return []
        return [_typed(row) for row in read_history(self._directory)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs."""
        return self._loaded.classes

    @property
    def model(self) -> keras.Model:
        """The best model as a plain Keras model: float32 [B, H, W, 3] pixels in RGB, 0 to 255, at
        the recipe's image size -> float32 [B, classes] logits.
        """
        return self._loaded.model

    @functools.cached_property
    def _loaded(self) -> LoadedRun:
        from engine.runs.load_run import load_run

        return load_run(self._directory)

    @functools.cached_property
    def _predictor(self) -> Predictor:
        from engine.inference import predictor

        run = self._loaded
        return predictor.from_classifier(run.recipe, run.classifier, run.classes, run.rule)

    def probabilities(self, images: Iterable[Image], batch_size: int = 32) -> np.ndarray:
        """Predicts what `bin/predict` predicts, calibrated by the run's temperature.

        Args:
          images: paths, bytes of encoded files, or uint8 [H, W, 3] arrays, in any mixture; each is
            decoded, turned upright and resized as in training.
          batch_size: images per call of the model.

        Returns:
          float32 [images, classes]; rows sum to 1.

        Raises:
          UserError: an image can't be read; its number or path is named.
        """
        model = self._predictor
        rows = [np.zeros([0, len(model.classes)], np.float32)]
        pixels = _pixels(images, model.image_size, model.resize)
        while batch := list(itertools.islice(pixels, batch_size)):
            rows.append(model.probabilities(np.stack(batch)).numpy())
        return np.concatenate(rows)


def open_run(run_dir: str | os.PathLike) -> Run:
    """Opens a run directory.

    Raises:
      UserError: there is no run.
    """
    return Run(run_dir)


def _typed(row: dict[str, str]) -> dict[str, Any]:
    whole = ("epoch", "step", "resident_bytes")
    return {
        name: value if name == "phase" else int(value) if name in whole else float(value)
        for name, value in row.items()
    }


def _pixels(
    images: Iterable[Image], image_size: tuple[int, int], resize: str
) -> Iterator[np.ndarray]:
    """Yields uint8 [H, W, 3] at the model's size."""
    from pipelines.decode import decode

    decode_file = decode.make_decoder(image_size, resize)
    for number, image in enumerate(images):
        name = f"image {number}" if isinstance(image, bytes | np.ndarray) else os.fspath(image)
        try:
            yield decode_file(_encoded(image))
        except OSError as error:
            raise UserError(f"{name}: {error.strerror or error}") from None
        except (UserError, ValueError) as error:
            raise UserError(f"{name}: {error}") from None


def _encoded(image: Image) -> bytes:
    """The bytes of a file; those of an array are a PNG of it, which loses nothing."""
    from pipelines.sources.examples import read_bytes

    if isinstance(image, bytes):
        return image
    if not isinstance(image, np.ndarray):
        return read_bytes(os.fspath(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(
            f"an array of {image.dtype} {list(image.shape)}; allowed: uint8 [height, width, 3], "
            "RGB, 0 to 255"
        )
    import tensorflow as tf

    return tf.io.encode_png(image).numpy()
