"""The report as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.report import class_sections, image_sections, run_sections, trust_sections
from engine.report.document import contents, document
from engine.report.formatting import count, day, percent, span
from engine.report.markup import Markup, paragraph, tag
from engine.report.report_data import ReportData
from engine.report.sections import Section, render

# In their order; those that have nothing to say are left out.
SECTIONS = (
    class_sections.classes,
    class_sections.confusion,
    class_sections.curves,
    trust_sections.calibration,
    trust_sections.decisions,
    image_sections.mistakes,
    image_sections.labels,
    run_sections.training,
    run_sections.resources,
    run_sections.recipe,
)
_MANY = 5  # classes above which it counts whether the label is among the likeliest


def page(facts: ReportData) -> str:
    sections = [section for make in SECTIONS if (section := make(facts))]
    title = f"{_name(facts)}: {percent(facts.figures.accuracy)} accuracy"
    return document(title, *_body(facts, sections))


def _body(facts: ReportData, sections: list[Section]) -> Iterator[Markup]:
    yield tag("a", "Skip to the figures", href="#main", class_="skip")
    yield tag(
        "header",
        paragraph("Training report", class_="kicker"),
        tag("h1", _name(facts)),
        paragraph(_measured(facts)),
    )
    yield contents(*((section.anchor, section.short) for section in sections))
    yield tag("main", _headline(facts), *map(render, sections), id="main")
    yield tag(
        "footer", paragraph(f"Made by Unfreeze on {day(facts.subject.when)}.", class_="muted")
    )


def _name(facts: ReportData) -> str:
    return Path(facts.subject.run).name or facts.subject.run


def _measured(facts: ReportData) -> str:
    subject = facts.subject
    height, width = subject.image_size
    part = "all of the data" if subject.part == "all" else f"the {subject.part} part"
    data = "the run’s own data" if subject.own else f"other data, {subject.data}"
    images = count(facts.figures.count, "image")
    views = f" Each answer is the mean over {subject.views}." if subject.views else ""
    trained = f" It was trained on {subject.trained_on:,} of these." if subject.trained_on else ""
    return (
        f"{subject.backbone} at {height}\xa0×\xa0{width} pixels, measured on {images} in "
        f"{count(len(subject.classes), 'class', 'classes')}: {part} of {data}, on "
        f"{day(subject.when)}.{trained}{views}"
    )


def _of_one(classes: int) -> str:
    return f"{count(classes, 'class', 'classes')} {'has' if classes == 1 else 'have'} one image"


def _headline(facts: ReportData) -> Markup:
    entries = [
        tag(
            "div",
            tag("dt", name),
            tag("dd", tag("div", value, class_="value"), tag("div", note, class_="muted")),
        )
        for name, value, note in _figures(facts)
    ]
    return tag("dl", *entries, class_="headline")


def _figures(facts: ReportData) -> Iterator[tuple[str, str, str]]:
    found = facts.figures
    likeliest = ", of the likeliest class" if facts.rule.overrides_argmax else ""
    accuracy = f"95\xa0%: {span(found.accuracy_interval)}{likeliest}"
    yield "Accuracy", percent(found.accuracy), accuracy
    of_one = f", too narrow: {_of_one(found.singleton_classes)}" if found.singleton_classes else ""
    yield "Macro F1", percent(found.macro_f1), f"95\xa0%: {span(found.macro_f1_interval)}{of_one}"
    yield "Loss", f"{found.loss:.4f}", "cross entropy, nats"
    if len(facts.subject.classes) > _MANY:
        for k, share in sorted(found.top_k.items()):
            if 1 < k < len(facts.subject.classes):
                yield f"Top {k}", percent(share), f"label among the {k} likeliest"
