"""An HTML document that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.report.markup import Markup, paragraph, tag

# A browser fetches nothing for such a page, whatever its names contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


class Section(NamedTuple):
    """A section of a page.

    anchor: its id.
    title: its heading.
    short: its entry in the contents.
    """

    anchor: str
    title: str
    short: str
    body: Markup


def document(
    title: str,
    header: Sequence[str],
    sections: Sequence[Section],
    lead: Markup | None = None,
    footer: str = "Made by Unfreeze.",
) -> str:
    """Returns the whole page.

    Args:
      title: of the browser's tab.
      header: the kind of page, its heading, and a summary.
      sections: in their order.
      lead: what stands before the first section.
      footer: what stands at the end.
    """
    kicker, heading, summary = header
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(Path(__file__).with_name("style.css").read_text("utf-8"))),
    )
    links = [tag("li", tag("a", each.short, href=f"#{each.anchor}")) for each in sections]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        tag("header", paragraph(kicker, class_="kicker"), tag("h1", heading), paragraph(summary)),
        tag("nav", tag("ul", *links), aria_label="Contents"),
        tag("main", lead or "", *map(_render, sections), id="main"),
        tag("footer", paragraph(footer, class_="muted")),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _render(section: Section) -> Markup:
    heading = f"{section.anchor}-title"
    title = tag("h2", section.title, id=heading)
    return tag("section", title, section.body, id=section.anchor, aria_labelledby=heading)
