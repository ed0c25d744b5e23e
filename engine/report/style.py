"""The style sheet of pages, with colors for light and dark."""

from __future__ import annotations

# `accent` is the only color; `tint` is the strongest fill of a cell of the confusion matrix.
LIGHT = {
    "paper": "#fdfdfb", "ink": "#1b1d1f", "muted": "#5c6166", "line": "#dfe1df",
    "accent": "#0b5f73", "tint": "#a9d0d8", "wash": "#f3f4f1",
}  # fmt: skip
DARK = {
    "paper": "#15181a", "ink": "#eceeec", "muted": "#a3a9ad", "line": "#33383b",
    "accent": "#7cc6d6", "tint": "#1d5563", "wash": "#1d2123",
}  # fmt: skip


def _colors(values: dict[str, str]) -> str:
    return "; ".join(f"--{name}: {value}" for name, value in values.items())


SHEET = (
    f"""
:root {{ color-scheme: light dark; {_colors(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colors(DARK)} }} }}
"""
    + """
*, *::before, *::after { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 400 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif }
body > * { max-width: 66rem; margin-inline: auto; padding-inline: clamp(1rem, 4vw, 2.5rem) }
h1, h2 { font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  font-weight: 500; line-height: 1.2; text-wrap: balance }
h1 { font-size: clamp(2rem, 6vw, 3.25rem); margin: .25rem 0 1rem; letter-spacing: -.01em }
h2 { font-size: clamp(1.5rem, 4vw, 1.9rem); margin: 0 0 1rem }
h3 { font-size: 1rem; font-weight: 600; margin: 2.5rem 0 .5rem }
h1, h2, h3, p, dd, li, figcaption, caption { overflow-wrap: anywhere }
p { max-width: 42rem; margin: 0 0 1rem }
a { color: var(--accent); text-underline-offset: .2em; text-decoration-thickness: 1px }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px }
/* Names of files and classes can be in right-to-left scripts. */
strong, code, .file, .legend li { unicode-bidi: isolate }
.flag { white-space: nowrap }
code { font: .875em/1.6 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace }
.skip { position: absolute; left: -100vw; background: var(--paper); padding-block: .5rem }
.skip:focus { left: 0 }
.muted, figcaption { color: var(--muted); font-size: .875rem; line-height: 1.5 }

header { padding-top: clamp(2rem, 8vw, 5rem) }
.kicker { color: var(--accent); font-size: .8125rem; letter-spacing: .08em;
  text-transform: uppercase; margin: 0 }
nav ul { list-style: none; margin: 2.5rem 0 0; padding: .9rem 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.5rem; border-block: 1px solid var(--line); font-size: .9375rem }
nav a { display: inline-block; padding-block: .2rem; color: inherit; text-decoration: none }
nav a:hover { color: var(--accent); text-decoration: underline }
section { margin-top: clamp(3.5rem, 9vw, 6rem) }
footer { margin-top: 6rem; padding-block: 1.5rem 3rem; border-top: 1px solid var(--line) }

.headline { display: grid; gap: 2rem clamp(1.5rem, 5vw, 4rem); margin: 2.5rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(11rem, 100%), max-content)) }
.headline dt { color: var(--muted); font-size: .875rem }
.headline dd { margin: 0 }
.headline .value { font-size: 2.25rem; line-height: 1.25; font-weight: 300;
  font-variant-numeric: tabular-nums; letter-spacing: -.01em }
.headline div:first-child .value { color: var(--accent) }

/* A shadow at the right edge while there is more to scroll to. */
.scroll { overflow-x: auto; max-width: 100%; margin: 1.25rem 0;
  background: linear-gradient(to left, var(--paper) 1.5rem, transparent) right / 3rem 100% local,
    linear-gradient(to left, var(--line), transparent) right / 1rem 100%;
  background-repeat: no-repeat }
.tall { max-height: 32rem; overflow-y: auto }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .5rem; font-weight: 600 }
th, td { padding: .4rem 1.25rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; text-align: right; white-space: nowrap }
th { font-weight: 400; text-align: right }
thead th { color: var(--muted); font-size: .875rem }
th:first-child { text-align: left }
tbody th { max-width: min(18rem, 45vw); white-space: normal; overflow-wrap: break-word;
  min-width: 6rem }
.texts td, .texts th, .pairs :is(td, th):nth-child(2) { text-align: left }
.texts td { white-space: normal; overflow-wrap: anywhere }

.confusion td, .confusion thead th { text-align: center; padding: .45rem .6rem; min-width: 3rem }
.confusion thead td { text-align: left; padding-left: 0 }
.confusion tbody td { border: 1px solid var(--paper);
  background: color-mix(in srgb, var(--tint) calc(var(--share) * 100%), var(--wash)) }
.confusion tbody th { border-bottom: 0 }
.confusion thead th { border-bottom: 0; vertical-align: bottom; white-space: normal;
  max-width: 14rem; overflow-wrap: break-word }
.confusion.upright thead th:not(:first-child) { writing-mode: vertical-rl; max-height: 12rem;
  text-align: left; padding: .4rem .2rem; line-height: 1.2 }
.confusion .right { font-weight: 600 }

.charts { display: grid; gap: 2rem clamp(1.5rem, 4vw, 3rem); margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)) }
.charts > * { min-width: 0; max-width: 29rem }
figure { margin: 0 }
.charts figcaption { color: var(--ink); font-weight: 600; font-size: .9375rem }
.charts svg { margin-top: .75rem }
svg { display: block; width: 100%; height: auto }
svg image { image-rendering: pixelated }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.25rem; margin: .5rem 0;
  padding: 0; font-size: .875rem; line-height: 1.5 }
.legend span { display: inline-block; width: 1.6rem; margin-right: .5rem; vertical-align: .25em;
  border-top: 2px solid }
.bar { display: inline-block; width: clamp(3rem, 15vw, 9rem); height: .55rem; margin-left: 1rem;
  background: var(--line) }
.bar span { display: block; height: 100%; min-width: 1px; background: var(--accent) }

details { margin: 1rem 0 }
summary { cursor: pointer; color: var(--accent); font-size: .9375rem; padding-block: .25rem }
pre { margin: 0; padding: 1rem; background: var(--wash); white-space: pre-wrap;
  overflow-wrap: anywhere }

.wall { list-style: none; margin: 1.5rem 0; padding: 0; display: grid; gap: 2rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)) }
.wall.single { grid-template-columns: repeat(auto-fill, minmax(min(10rem, 44%), 1fr)) }
.wall .images { display: flex; gap: .35rem }
.wall img { flex: 1 1 0; min-width: 0; width: 100%; height: auto; display: block;
  background: var(--wash) }
.wall strong { font-weight: 600; color: var(--ink) }
.wall figcaption { margin-top: .5rem }
.wall .file { display: block; font-size: .8125rem }
@media print { .scroll { overflow: visible } section { break-inside: auto } nav { display: none } }
"""
)
