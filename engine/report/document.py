"""An HTML document that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

from engine.report.markup import Markup, tag
from engine.report.style import SHEET

# A browser fetches nothing for such a page, whatever its names contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def document(title: str, *body: Markup) -> str:
    """Returns the whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(SHEET)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def contents(*links: tuple[str, str]) -> Markup:
    """Links to the sections of a page.

    Args:
      links: (anchor, text) of each.
    """
    entries = [tag("li", tag("a", text, href=f"#{anchor}")) for anchor, text in links]
    return tag("nav", tag("ul", *entries), aria_label="Contents")
