"""Sections with images: the most confident mistakes and the likely label errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from engine.core.text import command_line
from engine.report.document import Section
from engine.report.formatting import count, percent
from engine.report.markup import Markup, image, join, paragraph, preformatted, tag
from engine.report.report_data import LabelCheckSummary, Mistake, ReportData, SuspectLabel


def mistakes(data: ReportData) -> Section:
    if data.mistakes:
        by = " by the most likely class" if data.rule.overrides_argmax else ""
        intro = paragraph(
            f"{count(len(data.mistakes), 'image')} of {data.metrics.count:,} got a wrong "
            f"prediction{by}. Images are shown as the network sees them: the most confident "
            "mistake of each label and prediction, then the next of each. The heat map beside an "
            "image marks what speaks for the predicted class rather than the others (Grad-CAM; "
            "yellow is the strongest evidence in this image, blue is none). The prediction can be "
            "right and the label wrong."
        )
        body = join([intro, _gallery(data.mistakes, _mistake, "wall", "report.json")])
    else:
        body = paragraph("There are no mistakes.")
    return Section("mistakes", "Most confident mistakes", "Mistakes", body)


def _mistake(mistake: Mistake) -> tuple[Markup, Markup]:
    evidence = tag("p", f"no region speaks for {mistake.predicted}", class_="muted")
    if mistake.overlay:
        evidence = image(mistake.overlay, f"Evidence for {mistake.predicted}")
    images = tag("div", image(mistake.image, mistake.name), evidence, class_="images")
    label, predicted = tag("strong", mistake.given), tag("strong", mistake.predicted)
    probability = percent(mistake.probability, 1)
    return images, join(["label ", label, ", predicted ", predicted, f", {probability}"])


def labels(data: ReportData) -> Section | None:
    parts = [_labels(data.labels)] if data.labels else []
    if data.limited and (data.labels is None or data.labels.note):
        flags = f"--run_dir={data.run}", f"--report={data.run}/report"
        parts += [
            paragraph("The time for this report was limited. This command checks all labels:"),
            preformatted("Command for all labels", command_line("evaluate", *flags)),
        ]
    return Section("labels", "Likely label errors", "Labels", join(parts)) if parts else None


def _labels(check: LabelCheckSummary) -> Markup:
    method = (
        f"{count(check.examined, 'training image')} were classified by a model fitted on the "
        f"others, from features of {check.features_of}; it agrees with {percent(check.accuracy)} "
        f"of the labels. {check.note}{'. ' if check.note else ''}"
    )
    if not check.suspects:
        return paragraph(method, "No label looks wrong.")
    likely = sum(suspect.likely for suspect in check.suspects)
    result = (
        f"Likely wrong: {count(likely, 'label')}. Perhaps of images that are hard to classify: "
        f"{count(len(check.suspects) - likely, 'label')}. Check the images yourself."
    )
    gallery = _gallery(check.suspects, _suspect, "wall single", "suspect_labels.csv")
    return join([paragraph(method, result), gallery])


def _suspect(suspect: SuspectLabel) -> tuple[Markup, Markup]:
    label, suggested = tag("strong", suspect.given), tag("strong", suspect.suggested)
    how = "likely" if suspect.likely else "perhaps"
    return image(suspect.image, suspect.name), join(["label ", label, f", {how} ", suggested])


def _gallery(
    every: Sequence[Any], show: Callable[[Any], tuple[Markup, Markup]], class_: str, file: str
) -> Markup:
    """Shows the items that have an image, named relative to the folder that they share.

    Args:
      every: mistakes or suspect labels.
      show: returns the images of an item and their caption.
      class_: of the list.
      file: where all items are listed.
    """
    shown = [item for item in every if item.image]
    folders = zip(*(item.name.split("/")[:-1] for item in shown), strict=False)
    shared = itertools.takewhile(lambda folder: len(set(folder)) == 1, folders)
    root = "".join(f"{folder[0]}/" for folder in shared)
    figures = []
    for item in shown:
        images, caption = show(item)
        name = tag("span", item.name.removeprefix(root), class_="file")
        figures.append(tag("li", tag("figure", images, tag("figcaption", caption, name))))
    parts = [tag("ul", *figures, class_=class_)]
    if root:
        text = join(["Names are relative to ", tag("code", root), "."])
        parts.append(paragraph(text, class_="muted"))
    if len(every) > len(shown):
        rest = f"And {len(every) - len(shown):,} more, listed in {file}."
        parts.append(paragraph(rest, class_="muted"))
    return join(parts)
