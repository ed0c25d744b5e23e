"""Text for the model card: escaped names, preprocessing steps, and programs that apply them."""

from __future__ import annotations

import html
from collections.abc import Sequence

from engine.core.text import printable
from engine.export.export_source import UNCERTAIN, ExportSource

_UNESCAPED = frozenset(" ,.-'/()=%:;?")  # punctuation without a meaning in a line of Markdown

# Parts of `pixels` in `pixel_program`, equal to `pipelines.decode.resizing`.
BEFORE_READING = {
    "pad": """\
    wide = height * image.width > width * image.height
    side, limit = (image.width, width) if wide else (image.height, height)
    left, top = (
        min((target * side - own * limit + side) // (2 * side), (target - 1) // 2)
        for target, own in zip((width, height), image.size)
    )
    width, height = width - 2 * left, height - 2 * top
""",
}
AFTER_READING = {
    "crop": """\
    scale = max(width / box[2], height / box[3])
    left, top = (box[2] - width / scale) / 2, (box[3] - height / scale) / 2
    box = (max(left, 0), max(top, 0), box[2] - max(left, 0), box[3] - max(top, 0))
""",
}
AFTER_RESIZING = {
    "pad": """\
    levels = np.pad(levels, ((top, top), (left, left), (0, 0)))
""",
}
STEPS = {
    "squash": "each side scaled to the size",
    "crop": "scaled with its aspect ratio until it covers the size, then cropped to the centre",
    "pad": "scaled with its aspect ratio until it fits into the size, then padded with black",
}


def escape_markdown(name: str) -> str:
    """Escapes a name, so that Markdown and HTML show it literally in one line."""
    return "".join(map(_escape_letter, html.escape(printable(name), quote=False)))


def _escape_letter(letter: str) -> str:
    """Escapes ASCII punctuation; `&` and `;` belong to HTML entities already."""
    literal = not letter.isascii() or letter.isalnum() or letter in _UNESCAPED or letter == "&"
    return letter if literal else f"\\{letter}"


def preprocessing_steps(source: ExportSource) -> str:
    """Returns the preprocessing of an image as a Markdown list."""
    height, width, _ = source.input_shape
    resize = source.loaded_run.recipe.resize
    return f"""\
1. Decode the image and rotate it by its EXIF orientation.
2. Convert it to RGB: drop alpha, repeat grey; of 16-bit levels take the upper byte.
3. Resize it to {height} x {width} pixels (height x width) by `{resize}`: {STEPS[resize]}.
   The filter is the antialiased triangle: Pillow's BILINEAR in mode "F" (float), rounded once at
   the end; in byte modes Pillow rounds after each pass. In 50 photographs at most one value in
   5,000 differed from training, by one level. A JPEG of at least twice the size is decoded at a
   smaller scale first, as by Pillow's `draft`; the decoders returned equal pixels.
4. Pass uint8, 0 to 255. Scaling to the network's range is part of the model."""


def signature(source: ExportSource, decision: bool = True) -> str:
    """Describes inputs and outputs of an export that takes pixels."""
    (height, width, _), count = source.input_shape, len(source.classes)
    text = f"""\
The model takes `images`, uint8 [B, {height}, {width}, 3], RGB, and returns `probabilities`,
float32 [B, {count}]"""
    if decision:
        text += """, and `decision`, int32 [B], the class index or -1 for uncertain"""
    return f"{text}."


def pixel_program(
    source: ExportSource, package: str, lines: str, standard: Sequence[str] = ("zipfile",)
) -> str:
    """Returns a plain Python program that predicts the images named on its command line.

    Args:
      package: what `lines` imports.
      lines: compute `labels`, `probabilities` and `decisions` from `images`.
      standard: modules of the standard library that `lines` needs besides json and sys.
    """
    height, width, _ = source.input_shape
    resize = source.loaded_run.recipe.resize
    imports = "\n".join(f"import {name}" for name in ("json", "sys", *standard))
    return f"""\
```python
{imports}

import numpy as np
import {package}
from PIL import Image

HEIGHT, WIDTH = {height}, {width}


def pixels(path):
    image = Image.open(path)
    orientation = image.getexif().get(0x0112)  # applied after resizing
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    width, height = (HEIGHT, WIDTH) if orientation in (5, 6, 7, 8) else (WIDTH, HEIGHT)
{BEFORE_READING.get(resize, "")}\
    _, box = image.draft(None, (2 * width, 2 * height)) or (None, (0, 0, *image.size))
{AFTER_READING.get(resize, "")}\
    bands = [
        band.convert("F").resize((width, height), Image.Resampling.BILINEAR, box)
        for band in image.convert("RGB").split()
    ]
    levels = np.stack(bands, -1).round().astype(np.uint8)
{AFTER_RESIZING.get(resize, "")}\
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
    probability = row[decision] if decision >= 0 else max(row)
    print(path, label, float(probability), sep="\\t")
```"""
