"""Text of plots in any script: fonts that have its letters, or else a transliteration."""

from __future__ import annotations

import dataclasses
import functools
import io
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, fontManager
from matplotlib.ft2font import FT2Font

from engine.core.text import printable

NOTE = "Transliterated: no installed font has all letters (Noto Sans CJK has most)"
_BOXES = "Last Resort"  # begins the names of fonts that have a box for every letter
P = ParamSpec("P")


def as_png(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Makes the bytes of a PNG of a figure, whose texts are the strings among the arguments."""

    @functools.wraps(draw)
    def plot(*arguments: P.args, **named: P.kwargs) -> bytes:
        texts: list[str] = []

        def keep(text: str) -> str:
            texts.append(text)
            return text

        _map_text((arguments, named), keep)
        families, missing = choose_fonts({*"".join(texts)} - {"\n"})
        table = str.maketrans({letter: transliterate(letter) for letter in missing})
        arguments, named = _map_text((arguments, named), lambda text: text.translate(table))
        # Classes and files may have `$` in their names.
        with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
            figure = draw(*arguments, **named)
            if missing:
                figure.supxlabel(NOTE, fontsize=7, color="#666666")
            return png(figure)

    return plot


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """Returns the value with each string in it changed, apart from keys and names of types."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_text(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_map_text(each, change) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        changed = {name: _map_text(getattr(value, name), change) for name in fields}
        return dataclasses.replace(value, **changed)
    return value


def choose_fonts(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Returns families of fonts, the default first, and the letters that none of them has."""
    families = list(matplotlib.rcParamsDefault["font.family"])
    default = fontManager.findfont(FontProperties(family=families))
    missing = {letter for letter in letters if ord(letter) not in _letters_of(default)}
    while missing:
        most, family = max(
            (sum(ord(letter) in _letters_of(font.fname) for letter in missing), font.name)
            for font in _plain_fonts()
        )
        if not most:
            break
        families.append(family)
        paths = [font.fname for font in _plain_fonts() if font.name == family]
        missing = {c for c in missing if not any(ord(c) in _letters_of(p) for p in paths)}
    return families, missing


def _plain_fonts() -> list[FontEntry]:
    return [
        font
        for font in fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, "normal", "regular", "book")
        and not font.name.startswith(_BOXES)
    ]


@functools.cache
def _letters_of(path: str) -> frozenset[int]:
    """Returns the code points of a font; none of one that can't be drawn at any size."""
    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def transliterate(letter: str) -> str:
    """`ka` for a kana or Devanagari letter, `gae` for a Hangul syllable, `[732b]` for any other."""
    if not letter.isprintable():
        return printable(letter)
    name = unicodedata.name(letter, "").lower()
    sounds = any(kind in name for kind in ("letter", "syllable", "vowel"))
    return name.split()[-1] if sounds else f"[{ord(letter):x}]"
