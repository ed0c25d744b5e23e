"""The training report: one HTML page, made of sections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.report import calibration_sections, class_sections, image_sections, run_sections
from engine.report.document import contents, document
from engine.report.formatting import count, day, percent, span
from engine.report.markup import Markup, paragraph, tag
from engine.report.report_data import ReportData
from engine.report.sections import render

# In their order on the page; a section without content is None.
SECTIONS = (
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
_MIN_CLASSES_FOR_TOP_K = 6


def page(data: ReportData) -> str:
    """Returns the whole page."""
    sections = [section for make in SECTIONS if (section := make(data))]
    name = Path(data.subject.run).name or data.subject.run
    return document(
        f"{name}: {percent(data.metrics.accuracy)} accuracy",
        tag("a", "Skip to the metrics", href="#main", class_="skip"),
        tag(
            "header",
            paragraph("Training report", class_="kicker"),
            tag("h1", name),
            paragraph(_summary(data)),
        ),
        contents(*((section.anchor, section.short) for section in sections)),
        tag("main", _headline(data), *map(render, sections), id="main"),
        tag("footer", paragraph(f"Made by Unfreeze on {day(data.subject.when)}.", class_="muted")),
    )


def _summary(data: ReportData) -> str:
    subject = data.subject
    height, width = subject.image_size
    split = "all" if subject.split == "all" else f"the {subject.split} split"
    source = "the run’s own data" if subject.own else f"other data, {subject.data}"
    text = (
        f"{subject.backbone} at {height}\xa0×\xa0{width} pixels, evaluated on "
        f"{count(data.metrics.count, 'image')} in {count(len(subject.classes), 'class', 'classes')}"
        f": {split} of {source}, on {day(subject.when)}."
    )
    if subject.trained_on:
        text += f" It was trained on {subject.trained_on:,} of these images."
    if subject.views:
        text += f" Probabilities are averaged over {subject.views}."
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
        has = "has" if singletons == 1 else "have"
        note += f", too narrow: {count(singletons, 'class', 'classes')} {has} one image"
    yield "Macro F1", percent(metrics.macro_f1), note
    yield "Loss", f"{metrics.loss:.4f}", "cross entropy, nats"
    if len(data.subject.classes) >= _MIN_CLASSES_FOR_TOP_K:
        for k, share in sorted(metrics.top_k.items()):
            yield f"Top {k}", percent(share), f"label among the {k} most likely"
