"""Compares an export with the original model on the same images: outputs, size and latency."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation import decision_rule, eval_step
from engine.export.export_source import ExportFormat, ExportSource, PredictFunction
from engine.runtime.hardware import describe_machine, describe_software

WARM_UP, REPEATS = 3, 20
MAX_SECONDS = 3.0  # of all repeats; at least two are measured


@dataclasses.dataclass(frozen=True)
class Parity:
    """The comparison on one split; fractions are 0 to 1.

    agreement: fraction of images with the same most likely label.
    same_decisions: fraction with the same decision by the rule.
    largest_difference, mean_difference: of a probability, in absolute value.
    accuracy, original_accuracy: fractions of images whose most likely label is correct.
    bytes: size of the model. share_of_weights: that size divided by the float32 weights'.
    """

    images: int
    agreement: float
    same_decisions: float
    largest_difference: float
    mean_difference: float
    accuracy: float
    original_accuracy: float
    bytes: int
    share_of_weights: float
    latency: Latency
    original_latency: Latency


@dataclasses.dataclass(frozen=True)
class Latency:
    """Median milliseconds of a call with one image, and with `batch_size` of them."""

    single_ms: float
    batch_ms: float
    batch_size: int


def measure(
    source: ExportSource,
    export_format: ExportFormat,
    path: Path,
    predict: PredictFunction,
    batches: Iterable[Batch],
    read_image: Callable[[int], bytes],
) -> Parity:
    """Compares the predictions for every image, and measures size and latency.

    Args:
      path: of the exported model.
      predict: the exported model, loaded.
      read_image: index of an image -> its encoded bytes.
    """
    step = eval_step.make_eval_step(source.loaded_run.model)

    def logits(images: np.ndarray) -> np.ndarray:
        return step(images, np.zeros(len(images), np.int32))[1].numpy()

    columns: list[tuple] = []
    first_batch: list[Any] = []
    for batch in batches:
        real = np.asarray(batch.weights) > 0
        images, indices = np.asarray(batch.inputs)[real], np.asarray(batch.examples)[real].tolist()
        inputs = list(map(read_image, indices)) if export_format.takes_bytes else images
        first_batch = first_batch or [inputs, images]
        columns.append((np.asarray(batch.labels)[real], logits(images), *predict(inputs)))
    labels, original_logits, probabilities, decisions = map(
        np.concatenate, zip(*columns, strict=True)
    )
    original = decision_rule.probabilities(source.rule, original_logits).astype(np.float32)
    original_decisions = decision_rule.decide(source.rule, source.classes, original)
    best, original_best = probabilities.argmax(-1), original.argmax(-1)
    difference = np.abs(probabilities.astype(np.float64) - original)
    size = model_size(path)
    return Parity(
        images=len(labels),
        agreement=float(np.mean(best == original_best)),
        same_decisions=float(np.mean(decisions == original_decisions)),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        accuracy=float(np.mean(best == labels)),
        original_accuracy=float(np.mean(original_best == labels)),
        bytes=size,
        share_of_weights=size / (4 * source.loaded_run.model.count_params()),
        latency=_latency(predict, first_batch[0]),
        original_latency=_latency(logits, first_batch[1]),
    )


def require_agreement(parity: Parity, min_agreement: float) -> None:
    """Requires that the export predicts as the original model does.

    Raises:
      UserError: the most likely label or the decision agrees on a smaller fraction of the images
        than `min_agreement`; or probabilities are not finite.
    """
    if not np.isfinite(parity.largest_difference):
        raise UserError(
            "the export returns NaN or infinite probabilities, so nothing was written; "
            "choose another --format or --precision"
        )
    fractions = {
        "the most likely label": parity.agreement,
        "the decision by the model's rule": parity.same_decisions,
    }
    for what, fraction in fractions.items():
        if fraction < min_agreement:
            differing = round((1 - fraction) * parity.images)
            raise UserError(
                f"the export and the original differ in {what} of {differing:,} of "
                f"{parity.images:,} images, more than --min_agreement={min_agreement:g} allows, so "
                "nothing was written; choose another --format or --precision, or accept this one "
                f"with --min_agreement={math.floor(min(fractions.values()) * 10_000) / 10_000:g}"
            )


def table_rows(parity: Parity, export_format: ExportFormat) -> list[tuple[str, str, str]]:
    """Returns the comparison as rows of name, value and note."""
    latency, original = parity.latency, parity.original_latency
    decoding, pixels = (", decoded", ", from pixels") if export_format.takes_bytes else ("", "")
    share = f"{parity.share_of_weights:.1%} of the float32 weights"
    single, batch = (
        f"original: {milliseconds:.2f} ms{pixels}"
        for milliseconds in (original.single_ms, original.batch_ms)
    )
    return [
        ("images", f"{parity.images:,}", ""),
        ("same most likely label", f"{parity.agreement:.2%}", ""),
        ("same decision", f"{parity.same_decisions:.2%}", ""),
        ("largest difference", f"{parity.largest_difference:.1e}", "of a probability"),
        ("mean difference", f"{parity.mean_difference:.1e}", "of a probability"),
        ("accuracy", f"{parity.accuracy:.2%}", f"original: {parity.original_accuracy:.2%}"),
        ("size", f"{parity.bytes / 1e6:.2f} MB", share),
        (f"one image{decoding}", f"{latency.single_ms:.2f} ms", single),
        (f"{latency.batch_size} images{decoding}", f"{latency.batch_ms:.2f} ms", batch),
    ]


def report(
    source: ExportSource, export_format: ExportFormat, min_agreement: float, parity: Parity
) -> dict[str, Any]:
    """Returns the contents of `parity.json`, by which an export is recognized."""
    return {
        "format": export_format.title,
        "precision": source.precision,
        "model": export_format.path,
        "min_agreement": min_agreement,
        **dataclasses.asdict(parity),
        "software": describe_software(),
        "machine": describe_machine(),
    }


def model_size(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _latency(call: Callable[[Any], Any], inputs: Any) -> Latency:
    return Latency(_median_ms(call, inputs[:1]), _median_ms(call, inputs), len(inputs))


def _median_ms(call: Callable[[Any], Any], inputs: Any) -> float:
    for _ in range(WARM_UP):
        call(inputs)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < REPEATS and sum(seconds) < MAX_SECONDS):
        started = time.perf_counter()
        call(inputs)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))
