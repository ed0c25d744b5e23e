"""Sections with images: the most confident mistakes and the likely label errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.report.formatting import count, percent
from engine.report.markup import Markup, join, paragraph, tag
from engine.report.report_data import LabelCheckSummary, Mistake, ReportData, SuspectLabel
from engine.report.sections import Section, image, strong

Shown = TypeVar("Shown", Mistake, SuspectLabel)


def mistakes(data: ReportData) -> Section:
    every = data.mistakes
    if every:
        shown = [mistake for mistake in every if mistake.image]
        by = " by the most likely class" if data.rule.overrides_argmax else ""
        which = f"The {len(shown):,} most confident are shown" if len(shown) < len(every) else (
            "It is shown" if len(every) == 1 else "They are shown, most confident first"
        )  # fmt: skip
        intro = paragraph(
            f"{count(len(every), 'image')} of {data.metrics.count:,} got a wrong prediction{by}. "
            f"{which}, as the network sees images; the heat map beside each marks the evidence for "
            "the predicted class (Grad-CAM, yellow is strong, blue is weak). The prediction can be "
            "right and the label wrong."
        )
        rest = _rest(every, shown, "report.json")
        body = join([intro, _gallery(shown, _mistake, "wall"), rest])
    else:
        body = paragraph("There are no mistakes.")
    return Section("mistakes", "Most confident mistakes", "Mistakes", body)


def _mistake(mistake: Mistake, name: str) -> Markup:
    alt = f"{name}: label {mistake.given}, predicted {mistake.predicted}"
    evidence = f"Evidence for {mistake.predicted}"
    both = tag("div", image(mistake.image, alt), image(mistake.overlay, evidence), class_="images")
    text = ("label ", strong(mistake.given), ", predicted ", strong(mistake.predicted),
            f", {percent(mistake.probability, 1)}")  # fmt: skip
    return tag("figure", both, _caption(text, name))


def labels(data: ReportData) -> Section | None:
    if data.labels is None:
        return None
    return Section("labels", "Likely label errors", "Labels", _labels(data.labels))


def _labels(check: LabelCheckSummary) -> Markup:
    method = (
        f"{count(check.examined, 'training image')} were classified by a model fitted on the "
        f"others, from features of {check.features_of}; it agrees with {percent(check.accuracy)} "
        f"of the labels. {check.note}{'. ' if check.note else ''}"
    )
    every = check.suspects
    if not every:
        return paragraph(method, "No label looks wrong.")
    shown = [suspect for suspect in every if suspect.image]
    which = "" if len(shown) == len(every) else f" The {len(shown):,} most likely are shown."
    intro = paragraph(method, _disagreements(every), " Check the images yourself.", which)
    rest = _rest(every, shown, "suspect_labels.csv")
    return join([intro, _gallery(shown, _suspect, "wall single"), rest])


def _disagreements(every: Sequence[SuspectLabel]) -> str:
    likely, total = sum(suspect.likely for suspect in every), count(len(every), "other label")
    if likely == len(every):
        return f"The {total} {'is' if likely == 1 else 'are'} likely wrong."
    if not likely:
        return f"The {total} may belong to images that are hard to classify."
    are = "is" if likely == 1 else "are"
    return (
        f"Of the {total}, {likely:,} {are} likely wrong; the rest may belong to images that are "
        "hard to classify."
    )


def _suspect(suspect: SuspectLabel, name: str) -> Markup:
    how = "likely" if suspect.likely else "perhaps"
    alt = f"{name}: label {suspect.given}, {how} {suspect.suggested}"
    text = ("label ", strong(suspect.given), f", {how} ", strong(suspect.suggested))
    return tag("figure", image(suspect.image, alt), _caption(text, name))


def _caption(text: Sequence[str], name: str) -> Markup:
    return tag("figcaption", *text, tag("span", name, class_="file"))


def _gallery(shown: Sequence[Shown], figure: Callable[[Shown, str], Markup], class_: str) -> Markup:
    """The images, named relative to the folder that they share."""
    root = _common_folder([item.name for item in shown])
    items = [tag("li", figure(item, item.name.removeprefix(root))) for item in shown]
    note = paragraph("Names are relative to ", tag("code", root), ".", class_="muted")
    return join([tag("ul", *items, class_=class_), note if root else Markup()])


def _common_folder(names: Sequence[str]) -> str:
    """Returns the folder of all names with its slash; '' if there is none."""
    folders = zip(*(name.split("/")[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda folder: len(set(folder)) == 1, folders)
    return "".join(f"{folder[0]}/" for folder in shared)


def _rest(every: Sequence[Shown], shown: Sequence[Shown], file: str) -> Markup:
    if len(every) == len(shown):
        return Markup()
    return paragraph(f"And {len(every) - len(shown):,} more, listed in {file}.", class_="muted")
