"""Text for the model card: names in one line, and how an image becomes pixels elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence

from engine.core.text import printable
from engine.export.subject import UNCERTAIN, ExportSource

_PLAIN = frozenset(" ,.-'/()=%:;?")  # punctuation that Markdown leaves alone within a line

# Steps of `pixels` below, as in `pipelines.decode.resizing`.
BEFORE_READING = {
    "squash": "",
    "crop": "",
    "pad": """\
    wide = height * image.width > width * image.height
    side, limit = (image.width, width) if wide else (image.height, height)
    across, down = (
        min((target * side - own * limit + side) // (2 * side), (target - 1) // 2)
        for target, own in zip((width, height), image.size)
    )
    width, height = width - 2 * across, height - 2 * down
""",
}
AFTER_READING = {
    "squash": "",
    "crop": """\
    scale = max(width / box[2], height / box[3])
    across, down = (box[2] - width / scale) / 2, (box[3] - height / scale) / 2
    box = (max(across, 0), max(down, 0), box[2] - max(across, 0), box[3] - max(down, 0))
""",
    "pad": "",
}
AFTER_RESIZING = {
    "squash": "",
    "crop": "",
    "pad": """\
    levels = np.pad(levels, ((down, down), (across, across), (0, 0)))
""",
}
STEPS = {
    "squash": "scaled to the size, each side by itself",
    "crop": "scaled, both sides alike, until it covers the size, and the centre cut out",
    "pad": "scaled, both sides alike, until it fits into the size, and put in the middle of black",
}


def in_markdown(name: str) -> str:
    """A name as it is to be read, whatever of it Markdown or HTML would obey."""
    return "".join(map(_letter, html.escape(printable(name), quote=False)))


def _letter(letter: str) -> str:
    """Markdown takes a backslash before any punctuation of ASCII; `&` and `;` are HTML's by now."""
    ours = not letter.isascii() or letter.isalnum() or letter in _PLAIN or letter == "&"
    return letter if ours else f"\\{letter}"


def steps(subject: ExportSource) -> str:
    """How an image is made to fit, as a list."""
    height, width, _ = subject.pixels
    resize = subject.opened.recipe.resize
    return f"""\
1. Decoded, and turned upright by its EXIF orientation.
2. RGB: alpha is dropped, grey is repeated.
3. {height} pixels high and {width} wide, by `{resize}`: {STEPS[resize]}.
   The filter is the antialiased triangle: Pillow's BILINEAR in its float mode "F", rounded once,
   at the end; of bytes Pillow would round each pass. In 50 photographs at most one value in 5,000
   was then other than in training, by one level. A JPEG that has at least twice the size is read
   smaller first, as Pillow's `draft` does it; the decoders themselves gave the same pixels.
4. uint8, 0 to 255. Scaling to what the network wants is part of the model."""


def gives(subject: ExportSource, decision: bool = True) -> str:
    """What an export takes and gives that takes pixels."""
    (height, width, _), count = subject.pixels, len(subject.classes)
    text = f"""\
It takes `images`, uint8 [B, {height}, {width}, 3], RGB, and gives `probabilities`, float32
[B, {count}]"""
    if decision:
        text += """, and `decision`, int32 [B], the index of the answer or -1 where the rule
leaves it open"""
    return f"{text}."


def of_pixels(subject: ExportSource, imports: Sequence[str], lines: str) -> str:
    """A program in plain Python that feeds an export with images named on the command line.

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
from PIL import Image

HEIGHT, WIDTH = {height}, {width}


def pixels(path):
    image = Image.open(path)
    orientation = image.getexif().get(0x0112)  # the image is resized first and turned then
    width, height = (HEIGHT, WIDTH) if orientation in (5, 6, 7, 8) else (WIDTH, HEIGHT)
{BEFORE_READING[resize]}\
    _, box = image.draft(None, (2 * width, 2 * height)) or (None, (0, 0, *image.size))
{AFTER_READING[resize]}\
    bands = [
        band.convert("F").resize((width, height), Image.Resampling.BILINEAR, box)
        for band in image.convert("RGB").split()
    ]
    levels = np.stack(bands, -1).round().astype(np.uint8)
{AFTER_RESIZING[resize]}\
    if orientation in (5, 6, 7, 8):
        levels = levels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return levels


images = np.stack([pixels(path) for path in sys.argv[1:]])
{lines}
for path, row, decision in zip(sys.argv[1:], probabilities, decisions):
    label = labels[decision] if decision >= 0 else "{UNCERTAIN}"
    chance = row[decision] if decision >= 0 else max(row)
    print(path, label, float(chance), sep="\\t")
```"""
