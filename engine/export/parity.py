"""An export against the original, on the same images: how they differ, how large, how fast."""

from __future__ import annotations

import dataclasses
import decimal
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation import decision_rule, eval_step
from engine.export.subject import BYTES, Answer, ExportFormat, ExportSource
from engine.runtime.hardware import describe_machine, describe_software

WARM_UP, REPEATS = 3, 20
LONGEST_SECONDS = 3.0  # of repeats; two there are in any case


@dataclasses.dataclass(frozen=True)
class Parity:
    """What was seen on the images of one part; shares are 0 to 1.

    agreement: share of images with the same likeliest label.
    same_decisions: share with the same answer by the rule.
    largest_difference, mean_difference: of a probability, in absolute value.
    accuracy, original_accuracy: shares of images whose likeliest label is the given one.
    bytes: size of the model. share_of_weights: that, of the size of the float32 weights.
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
    subject: ExportSource,
    kind: ExportFormat,
    path: Path,
    answer: Answer,
    batches: Iterable[Batch],
    contents: Callable[[int], bytes],
) -> Parity:
    """Passes every image through the export and the original.

    Args:
      path: of the exported model. answer: that model, opened.
      contents: the encoded bytes of the image with that number.
    """
    step = eval_step.make_eval_step(subject.opened.model)

    def logits(images: np.ndarray) -> np.ndarray:
        return step(images, np.zeros(len(images), np.int32))[1].numpy()

    columns: list[tuple] = []
    tried: list[Any] = []
    for batch in batches:
        real = np.asarray(batch.weights) > 0
        images, numbers = np.asarray(batch.inputs)[real], np.asarray(batch.examples)[real]
        inputs = [contents(int(n)) for n in numbers] if kind.takes == BYTES else images
        tried = tried or [inputs, images]
        columns.append((np.asarray(batch.labels)[real], logits(images), *answer(inputs)))
    labels, original, chances, decisions = map(np.concatenate, zip(*columns, strict=True))
    size, weights = size_of(path), 4 * subject.opened.model.count_params()
    return Parity(
        **_compared(subject, labels, original, chances, decisions),
        bytes=size,
        share_of_weights=size / weights,
        latency=_latency(answer, tried[0]),
        original_latency=_latency(logits, tried[1]),
    )


def _compared(
    subject: ExportSource,
    labels: np.ndarray,
    original: np.ndarray,
    chances: np.ndarray,
    decisions: np.ndarray,
) -> dict[str, Any]:
    """The first fields of `Parity`."""
    wanted = decision_rule.probabilities(subject.rule, original).astype(np.float32)
    decided = decision_rule.decide(subject.rule, subject.classes, wanted)
    difference = np.abs(chances.astype(np.float64) - wanted)
    return {
        "images": len(labels),
        "agreement": float(np.mean(chances.argmax(-1) == wanted.argmax(-1))),
        "same_decisions": float(np.mean(decisions == decided)),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "accuracy": float(np.mean(chances.argmax(-1) == labels)),
        "original_accuracy": float(np.mean(wanted.argmax(-1) == labels)),
    }


def check(found: Parity, least: float) -> None:
    """Nothing, where the export answers as the original does.

    Raises:
      UserError: it does so on a smaller share of the images than `least`, by the likeliest label
        or by the rule; or its probabilities are no numbers.
    """
    if not np.isfinite(found.largest_difference):
        raise UserError(
            "the export gives probabilities that are no numbers, so nothing was written; "
            "take another --format or --precision"
        )
    shares = {
        "the likeliest label": found.agreement,
        "the answer by the model's rule": found.same_decisions,
    }
    for what, share in shares.items():
        if share < least:
            differing = round((1 - share) * found.images)
            raise UserError(
                f"the export and the original differ in {what} of {differing:,} of "
                f"{found.images:,} images, more than --min_agreement={least:g} allows, so "
                "nothing was written; take another --format or --precision, or take this one with "
                f"--min_agreement={_below(min(shares.values()))}"
            )


def _below(share: float) -> str:
    """A share in four decimals at most, rounded down."""
    written = decimal.Decimal(repr(share))
    return f"{float(written.quantize(decimal.Decimal('0.0001'), decimal.ROUND_FLOOR)):.4g}"


def rows(found: Parity, kind: ExportFormat) -> list[tuple[str, str, str]]:
    """What was seen, to be shown: a name, the figure, and what goes with it."""
    one, other = found.latency, found.original_latency
    bytes_ = kind.takes == BYTES
    decoding, pixels = (", decoded", ", from pixels") if bytes_ else ("", "")
    return [
        ("images", f"{found.images:,}", ""),
        ("same likeliest label", f"{found.agreement:.2%}", ""),
        ("same answer by the rule", f"{found.same_decisions:.2%}", ""),
        ("largest difference", f"{found.largest_difference:.1e}", "of a probability"),
        ("mean difference", f"{found.mean_difference:.1e}", "of a probability"),
        ("accuracy", f"{found.accuracy:.2%}", f"the original's {found.original_accuracy:.2%}"),
        ("size", f"{found.bytes / 1e6:.2f} MB", f"{found.share_of_weights:.1%} of its weights"),
        (
            f"one image{decoding}",
            f"{one.single_ms:.2f} ms",
            f"the original's {other.single_ms:.2f} ms{pixels}",
        ),
        (
            f"{one.batch_size} images{decoding}",
            f"{one.batch_ms:.2f} ms",
            f"the original's {other.batch_ms:.2f} ms{pixels}",
        ),
    ]


def report(
    subject: ExportSource, kind: ExportFormat, least: float, found: Parity
) -> dict[str, Any]:
    """What `parity.json` says; an export is known by it."""
    return {
        "format": kind.title,
        "precision": subject.precision,
        "model": kind.path,
        "min_agreement": least,
        **dataclasses.asdict(found),
        "software": describe_software(),
        "machine": describe_machine(),
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    inside = (os.path.join(place, name) for place, _, names in os.walk(path) for name in names)
    return sum(map(os.path.getsize, inside))


def _latency(call: Callable[[Any], Any], inputs: Any) -> Latency:
    return Latency(_median_ms(call, inputs[:1]), _median_ms(call, inputs), len(inputs))


def _median_ms(call: Callable[[Any], Any], inputs: Any) -> float:
    seconds: list[float] = []
    for repeat in range(WARM_UP + REPEATS):
        begun = time.perf_counter()
        call(inputs)
        if repeat >= WARM_UP:
            seconds.append(time.perf_counter() - begun)
        if sum(seconds) > LONGEST_SECONDS and len(seconds) > 1:
            break
    return 1000 * float(np.median(seconds))
