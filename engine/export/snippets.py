"""Text for the model card: names in one line, and how a picture becomes pixels elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

from engine.export.subject import UNCERTAIN, Subject

_PLAIN = frozenset(" ,.-'/()=%:;?")  # punctuation that Markdown leaves alone within a line

# With Pillow, whose BILINEAR is the filter that the model was trained with: `pipelines.resizing`.
RESIZING = {
    "squash": """\
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))""",
    "crop": """\
    return np.asarray(ImageOps.fit(image, (WIDTH, HEIGHT), Image.Resampling.BILINEAR))""",
    "pad": """\
    wide = HEIGHT * image.width > WIDTH * image.height
    full, limit = (image.width, WIDTH) if wide else (image.height, HEIGHT)
    across, down = (
        min((target * full - side * limit + full) // (2 * full), (target - 1) // 2)
        for target, side in ((WIDTH, image.width), (HEIGHT, image.height))
    )
    inner = (WIDTH - 2 * across, HEIGHT - 2 * down)
    canvas = Image.new("RGB", (WIDTH, HEIGHT))
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), (across, down))
    return np.asarray(canvas)""",
}
STEPS = {
    "squash": "scaled to the size, each side by itself",
    "crop": "scaled, both sides alike, until it covers the size, and the centre cut out",
    "pad": "scaled, both sides alike, until it fits into the size, and put in the middle of black",
}


def one_line(name: str) -> str:
    """A name without line breaks and other things that a terminal obeys: they are escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_markdown(name: str) -> str:
    """A name as it is to be read, whatever of it Markdown or HTML would obey."""
    return "".join(map(_letter, html.escape(one_line(name), quote=False)))


def _letter(letter: str) -> str:
    """Markdown takes a backslash before any punctuation of ASCII; `&` and `;` are HTML's by now."""
    ours = not letter.isascii() or letter.isalnum() or letter in _PLAIN or letter == "&"
    return letter if ours else f"\\{letter}"


def steps(subject: Subject) -> str:
    """How a picture is made to fit, as a list."""
    height, width, _ = subject.pixels
    resize = subject.opened.recipe.resize
    return f"""\
1. Decoded, and turned upright by its EXIF orientation.
2. RGB: alpha is dropped, grey is repeated.
3. {height} pixels high and {width} wide, by `{resize}`: {STEPS[resize]}.
   The filter is the antialiased triangle, Pillow's BILINEAR.
4. uint8, 0 to 255. Scaling to what the network wants is part of the model."""


def gives(subject: Subject, decision: bool = True) -> str:
    """What an export takes and gives that takes pixels."""
    (height, width, _), count = subject.pixels, len(subject.classes)
    text = f"""\
It takes `images`, uint8 [B, {height}, {width}, 3], RGB, and gives `probabilities`, float32
[B, {count}]"""
    if decision:
        text += """, and `decision`, int32 [B], the index of the answer or -1 where the rule
leaves it open"""
    return f"{text}."


def of_pixels(subject: Subject, imports: Sequence[str], lines: str) -> str:
    """A program in plain Python that feeds an export with pictures named on the command line.

    lines: of it; from `images` they make `labels`, `probabilities` and `decisions`.
    """
    height, width, _ = subject.pixels
    resize = subject.opened.recipe.resize
    standard = [name for name in imports if name == "zipfile"]
    others = [name for name in imports if name != "zipfile"]
    first = "\n".join(f"import {name}" for name in ("json", "sys", *standard))
    second = "\n".join(f"import {name}" for name in (*sorted(others), "numpy as np"))
    return f"""\
```python
{first}

{second}
from PIL import Image, ImageOps

HEIGHT, WIDTH = {height}, {width}


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
{RESIZING[resize]}


images = np.stack([pixels(path) for path in sys.argv[1:]])
{lines}
for path, row, decision in zip(sys.argv[1:], probabilities, decisions):
    label = labels[decision] if decision >= 0 else "{UNCERTAIN}"
    print(path, label, float(max(row)), sep="\\t")
```"""
