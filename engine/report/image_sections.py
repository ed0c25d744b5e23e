"""Sections of images: the worst mistakes, and the labels that are likely wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.report.formatting import count, percent
from engine.report.markup import Markup, join, paragraph, tag
from engine.report.report_data import LabelCheckSummary, Mistake, ReportData, SuspectLabel
from engine.report.sections import Section, image, strong

Shown = TypeVar("Shown", Mistake, SuspectLabel)


def mistakes(facts: ReportData) -> Section:
    found = facts.mistakes
    return Section("mistakes", "The worst mistakes", "Mistakes", _mistakes(found, facts))


def _mistakes(found: tuple[Mistake, ...], facts: ReportData) -> Markup:
    if not found:
        return paragraph("None: every image was named as its label says.")
    shown = [one for one in found if one.image]
    by = " by the likeliest class" if facts.rule.overrides_argmax else ""
    if len(found) == 1:
        those = "Here it is"
    elif len(shown) == len(found):
        those = "Here they are, the surest first"
    else:
        those = f"Here are the {len(shown):,} surest"
    intro = paragraph(
        f"{count(len(found), 'image')} of {facts.figures.count:,} got a wrong answer{by}. "
        f"{those}, as the network sees images, and beside each where it saw the class that it "
        "named (Grad-CAM: yellow is strong, blue is weak). It may be right, and the label wrong."
    )
    return join([intro, _wall(shown, _mistake, "wall"), _rest(found, shown, "report.json")])


def _mistake(one: Mistake, name: str) -> Markup:
    alt = f"{name}: given as {one.given}, taken for {one.predicted}"
    seen = f"Where the network saw {one.predicted} in it"
    both = tag("div", image(one.image, alt), image(one.overlay, seen), class_="images")
    sureness = f", {percent(one.probability, 1)}"
    words = ("given ", strong(one.given), ", predicted ", strong(one.predicted), sureness)
    return tag("figure", both, _caption(words, name))


def labels(facts: ReportData) -> Section | None:
    if facts.labels is None:
        return None
    return Section("labels", "Labels that are likely wrong", "Labels", _labels(facts.labels))


def _labels(found: LabelCheckSummary) -> Markup:
    looked = (
        f"Each of {count(found.examined, 'training image')} was named by a classifier that had "
        f"not learnt from it, by the features of {found.features_of}; {percent(found.accuracy)} of "
        f"the labels agree. {found.note}{'. ' if found.note else ''}"
    )
    every = found.suspects
    if not every:
        return paragraph(looked, "No label looks wrong.")
    shown = [one for one in every if one.image]
    those = "" if len(shown) == len(every) else f" Here are the {len(shown):,} likeliest."
    intro = paragraph(looked, _which_are_wrong(every), " Look before you believe it.", those)
    return join(
        [intro, _wall(shown, _suspect, "wall single"), _rest(every, shown, "suspect_labels.csv")]
    )


def _which_are_wrong(every: Sequence[SuspectLabel]) -> str:
    likely = sum(one.likely for one in every)
    if len(every) == 1:
        return f"The other one {'is likely wrong' if likely else 'may only be hard to tell'}."
    if not likely:
        return f"The {len(every):,} others may only be hard to tell."
    if likely == len(every):
        return f"The {len(every):,} others are likely wrong, by how sure it is."
    are = "is" if likely == 1 else "are"
    return (
        f"Of the {len(every):,} others, {likely:,} {are} likely wrong, by how sure it is; the rest "
        "may only be hard to tell."
    )


def _suspect(one: SuspectLabel, name: str) -> Markup:
    how = "likely" if one.likely else "perhaps"
    alt = f"{name}: given as {one.given}, {how} {one.suggested}"
    words = ("given ", strong(one.given), f", {how} ", strong(one.suggested))
    return tag("figure", image(one.image, alt), _caption(words, name))


def _caption(words: Sequence[str], name: str) -> Markup:
    return tag("figcaption", *words, tag("span", name, class_="file"))


def _wall(shown: Sequence[Shown], make: Callable[[Shown, str], Markup], class_: str) -> Markup:
    """The images, each under its name below the folder that they share."""
    root = _common([one.name for one in shown])
    items = [tag("li", make(one, one.name.removeprefix(root))) for one in shown]
    where = paragraph("Names are below ", tag("code", root), ".", class_="muted")
    return join([tag("ul", *items, class_=class_), where if root else Markup()])


def _common(names: Sequence[str]) -> str:
    """The folder that all are in, with its slash; nothing where there is none."""
    folders = zip(*(name.split("/")[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda folder: len(set(folder)) == 1, folders)
    return "".join(f"{folder[0]}/" for folder in shared)


def _rest(every: Sequence[Shown], shown: Sequence[Shown], file: str) -> Markup:
    if len(every) == len(shown):
        return Markup()
    return paragraph(f"And {len(every) - len(shown):,} more, which {file} lists.", class_="muted")
