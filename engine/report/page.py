"""The training report: one HTML page, made of sections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.report import calibration_sections, class_sections, image_sections, run_sections
from engine.report.document import document
from engine.report.formatting import count, day, percent, span
from engine.report.markup import Markup, tag
from engine.report.report_data import ReportData

# In their order on the page; a section without content is None.
SECTIONS = (
    run_sections.verdict,
    class_sections.classes,
    class_sections.confusion,
    class_sections.curves,
    calibration_sections.calibration,
    calibration_sections.decisions,
    image_sections.mistakes,
    image_sections.labels,
    run_sections.training,
    run_sections.resources,
    run_sections.recipe,
)


def page(data: ReportData) -> str:
    """Returns the whole page."""
    name = Path(data.run).name or data.run
    return document(
        f"{name}: {percent(data.metrics.accuracy)} accuracy",
        ("Training report", name, _summary(data)),
        [section for make in SECTIONS if (section := make(data))],
        _headline(data),
        f"Made by Unfreeze on {day(data.context.when)}.",
    )


def _summary(data: ReportData) -> str:
    context, recipe = data.context, data.recipe
    height, width = recipe.image_size
    classes = count(len(data.metrics.per_class), "class", "classes")
    split = "all" if context.split == "all" else f"the {context.split} split"
    source = "the run’s own data" if context.own else f"other data, {context.data}"
    text = (
        f"{recipe.backbone} at {height}\xa0×\xa0{width} pixels, evaluated on "
        f"{count(data.metrics.count, 'image')} in {classes}: {split} of {source}, on "
        f"{day(context.when)}."
    )
    if context.trained_on:
        text += f" It was trained on {context.trained_on:,} of these images."
    if context.views:
        text += f" Probabilities are averaged over {context.views}."
    return text


def _headline(data: ReportData) -> Markup:
    entries = [
        tag(
            "div",
            tag("dt", name),
            tag("dd", tag("div", value, class_="value"), tag("div", note, class_="muted")),
        )
        for name, value, note in _headline_metrics(data)
    ]
    return tag("dl", *entries, class_="headline")


def _headline_metrics(data: ReportData) -> Iterator[tuple[str, str, str]]:
    """Yields name, value and a note."""
    metrics = data.metrics
    by = ", most likely class" if data.rule.overrides_argmax else ""
    note = f"95\xa0%: {span(metrics.accuracy_interval)}{by}"
    yield "Accuracy", percent(metrics.accuracy), note
    note = f"95\xa0%: {span(metrics.macro_f1_interval)}"
    if singletons := metrics.singleton_classes:
        note += f", too narrow: {count(singletons, 'class', 'classes')} with one image"
    yield "Macro F1", percent(metrics.macro_f1), note
    yield "Loss", f"{metrics.loss:.4f}", "cross entropy, nats"
    for k, share in metrics.top_k.items():
        yield f"Top {k}", percent(share), f"label among the {k} most likely"
