"""HTML as values: text is escaped whatever it contains, and markup is known by its type."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from engine.core.text import printable

_VOID = {"img", "meta"}
_NO_BREAK_SPACES = "\xa0\u202f"  # keep a number and its unit on one line


class Markup(str):
    """HTML that is not escaped."""

    __slots__ = ()


def visible(text: str) -> str:
    """Returns the text with invisible characters, such as line breaks, escaped as in Python."""
    return printable(text, keep=_NO_BREAK_SPACES)


def escape(text: str) -> Markup:
    """Escapes any text for HTML; markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text), quote=True))


def tag(name: str, /, *content: str, **attributes: str | None) -> Markup:
    """`<name attributes>content</name>`.

    `aria_label` is written `aria-label`, `class_` is written `class`. An attribute that is None is
    left out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    start = f"<{' '.join(words)}>"
    if name in _VOID:
        return Markup(start)
    return Markup(f"{start}{join(content)}</{name}>")


def join(content: Iterable[str], between: str = "") -> Markup:
    return Markup(between.join(map(escape, content)))


def paragraph(*content: str, class_: str | None = None) -> Markup:
    return tag("p", *content, class_=class_)


def image(jpeg: bytes, alt: str) -> Markup:
    data = base64.b64encode(jpeg).decode()
    return tag("img", src=f"data:image/jpeg;base64,{data}", alt=alt)


def scroll(label: str, *content: str) -> Markup:
    """A scrolling box for content wider than the page, accessible by keyboard."""
    return tag("div", *content, class_="scroll", role="region", aria_label=label, tabindex="0")


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], class_: str | None = None
) -> Markup:
    """A table in a box that scrolls; the first cell of a row is its head, the others are numbers.

    heads: one for each column.
    """
    top = tag("tr", *[tag("th", head, scope="col") for head in heads])
    body = [
        tag("tr", tag("th", row[0], scope="row"), *[tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    parts = (tag("caption", caption), tag("thead", top), tag("tbody", *body))
    return scroll(caption, tag("table", *parts, class_=class_))


def details(summary: str, *content: str) -> Markup:
    return tag("details", tag("summary", summary), *content)


def preformatted(label: str, text: str) -> Markup:
    lines = join(text.splitlines(), between="\n")
    return scroll(label, tag("pre", tag("code", lines)))
