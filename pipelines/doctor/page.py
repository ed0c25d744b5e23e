"""What the doctor found as one HTML page that needs nothing else: no script, no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator

import tensorflow as tf

from engine.core.text import counted, printable
from pipelines.decode import decode
from pipelines.doctor.examine import ExaminedDataset
from pipelines.doctor.kinds import Entry, Finding
from pipelines.doctor.report import common, counts, describe, summary
from pipelines.sources.examples import Examples, read

SHOWN = 60  # cases of each kind
SIDE = 112  # pixels of a thumbnail
_AT_A_TIME = 4  # images of a case

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
p { overflow-wrap: anywhere }
a { color: #0b57d0 } a:visited { color: #6b3fa0 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
h2 { margin-top: 2.5rem; border-left: .4rem solid #767676; padding-left: .6rem }
.error h2 { border-color: #b3261e } .warning h2 { border-color: #8a5a00 }
ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem }
li { max-width: 30rem; overflow-wrap: anywhere; font-size: .85rem }
img { width: 7rem; height: 7rem; object-fit: contain; background: #eee; margin-right: .25rem }
@media (prefers-color-scheme: dark) {
  body { color: #eee; background: #161616 } th, td { border-color: #444 } img { background: #333 }
  a { color: #8ab4f8 } a:visited { color: #c8a8f5 }
  h2 { border-color: #9a9a9a } .error h2 { border-color: #f2b8b5 }
  .warning h2 { border-color: #f0c26a }
}
"""


def page(examined: ExaminedDataset, seconds: float) -> str:
    """The whole page; names of files are shown as they are and mean nothing to the browser."""
    examples = examined.examples
    body = [
        "<h1>The images before the training</h1>",
        f"<p>{counted(len(examples), 'image', 'images')} in "
        f"{html.escape(printable(common(examples)))} looked at in {seconds:.1f} s: "
        f"{summary(examined.findings)}.</p>",
        *_classes(examples),
        *_contents(examined.findings),
    ]
    for finding in examined.findings:
        body += _section(finding, examined)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The images before the training</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _classes(examples: Examples) -> Iterator[str]:
    parts = counts(examples)
    heads = "".join(f'<th scope="col">{part}</th>' for part in parts)
    yield f'<table><tr><th scope="col">class</th>{heads}</tr>'
    for name in examples.classes:
        cells = "".join(f'<td class="number">{of[name]:,}</td>' for of in parts.values())
        yield f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'
    yield "</table>"


def _contents(findings: tuple[Finding, ...]) -> Iterator[str]:
    if not findings:
        yield "<p>All is well: nothing was found that training would stumble over.</p>"
        return
    yield '<table><tr><th scope="col">level</th><th scope="col">cases</th><th></th></tr>'
    for finding in findings:
        level, title, *_ = finding.kind
        link = f'<a href="#{finding.name}">{html.escape(title)}</a>'
        number = f'<td class="number">{len(finding.entries):,}</td>'
        yield f"<tr><td>{level}</td>{number}<td>{link}</td></tr>"
    yield "</table>"


def _section(finding: Finding, examined: ExaminedDataset) -> Iterator[str]:
    level, title, _, advice = finding.kind
    yield f'<section class="{level}" id="{finding.name}"><h2>{level}: {html.escape(title)}</h2>'
    yield f"<p>{html.escape(finding.counted)}. What to do: {html.escape(advice)}.</p><ul>"
    root = common(examined.examples)
    for entry in finding.entries[:SHOWN]:
        images = "".join(_thumbnails(entry, examined))
        yield f"<li>{images}<div>{html.escape(describe(entry, root))}</div></li>"
    yield "</ul>"
    if len(finding.entries) > SHOWN:
        yield f"<p>And {len(finding.entries) - SHOWN:,} more, which report.json lists.</p>"
    yield "</section>"


def _thumbnails(entry: Entry, examined: ExaminedDataset) -> Iterator[str]:
    for index in entry.examples[:_AT_A_TIME]:
        if examined.sound[index]:
            yield _thumbnail(examined.examples, index)


def _thumbnail(examples: Examples, index: int) -> str:
    try:
        pixels = decode.decode(read(examples, index), SIDE, SIDE, "pad")
    except (OSError, tf.errors.OpError):  # it was sound a moment ago
        return ""
    data = base64.b64encode(tf.io.encode_jpeg(pixels, quality=80).numpy()).decode()
    name = html.escape(examples.name(index), quote=True)
    return f'<img alt="{name}" src="data:image/jpeg;base64,{data}">'
