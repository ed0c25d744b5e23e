"""What is wrong with a page for who can't see it, or has no network; told from its text alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"img", "meta", "br", "hr", "input", "link", "base"}
NAMED = {"main", "nav", "header", "footer"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.levels: list[int] = []
        self.words: dict[str, list[str]] = {}

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        self.tags.append((tag, values))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.found.append(f"</{tag}> closes what is not open")

    def handle_data(self, data):
        for tag in set(self.open):
            self.words[tag][-1] += data


def complaints(page: str) -> list[str]:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    found = [*reader.found, *(f"<{tag}> is left open" for tag in reader.open)]
    return found + list(_structure(reader)) + list(_each(reader)) + list(_references(reader))


def _structure(reader: _Reader):
    names = [tag for tag, _ in reader.tags]
    attributes = dict(reversed(reader.tags))
    if not attributes.get("html", {}).get("lang"):
        yield "no language"
    if not reader.words.get("title", [""])[0].strip():
        yield "no title"
    for name in NAMED:
        if names.count(name) != 1:
            yield f"{names.count(name)} of <{name}>"
    if reader.levels.count(1) != 1:
        yield f"{reader.levels.count(1)} headings of level 1"
    for above, below in zip(reader.levels, reader.levels[1:], strict=False):
        if below > above + 1:
            yield f"a heading of level {below} below one of level {above}"
    for name in ("h1", "h2", "h3", "th", "caption", "summary", "a"):
        if any(not words.strip() for words in reader.words.get(name, [])):
            yield f"an empty <{name}>"
    for inner, outer in (("caption", "table"), ("summary", "details")):
        if names.count(inner) != names.count(outer):
            yield f"{names.count(outer)} of <{outer}> and {names.count(inner)} of <{inner}>"


def _each(reader: _Reader):
    for tag, values in reader.tags:
        if tag == "img" and not values.get("alt", "").strip():
            yield "an image without words"
        if tag == "svg" and (values.get("role") != "img" or not values.get("aria-label")):
            yield "a drawing without words"
        if tag == "th" and values.get("scope") not in ("col", "row"):
            yield "a <th> without scope"
        if values.get("class", "").startswith("scroll") and (
            values.get("tabindex") != "0" or not values.get("aria-label")
        ):
            yield "a box that scrolls, out of the keyboard's reach or without a name"
        if tag in ("script", "link", "iframe", "object", "embed", "base") or any(
            name.startswith("on") for name in values
        ):
            yield f"<{tag}> is more than text"


def _references(reader: _Reader):
    ids = [values["id"] for _, values in reader.tags if "id" in values]
    yield from {f"duplicate id {name!r}" for name in ids if ids.count(name) > 1}
    for tag, values in reader.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset"):
            value = values.get(name)
            if value is None or value.startswith("data:image/"):
                continue
            if not value.startswith("#"):
                yield f"<{tag}> reaches for {value[:60]!r}"
            elif value[1:] not in ids:
                yield f"<{tag}> leads to {value!r}, which is not there"
        for name in ("aria-labelledby", "aria-describedby"):
            if name in values and values[name] not in ids:
                yield f"{name} names {values[name]!r}, which is not there"
        drawn = values.get("style", "") + values.get("clip-path", "")
        for place in re.findall(r"url\(([^)]*)\)", drawn):
            if place.lstrip("'\"#").rstrip("'\"") not in ids:
                yield f"<{tag}> reaches for {place!r}"
    for sheet in reader.words.get("style", []):
        if re.search(r"@import|url\(", sheet):
            yield "the style sheet reaches for something"
