"""A page in headless Chromium."""

from __future__ import annotations

import html
import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_ASK = """<script>onload = () => {
  const wide = document.documentElement, out = innerWidth;
  const over = [...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, .skip, svg") && e.getBoundingClientRect().right > out + 0.5);
  const seen = [...document.images].every(i => i.complete && i.naturalWidth > 0);
  parent.postMessage([out, wide.scrollWidth, over.map(e => e.tagName).join(" "), seen], "*");
}</script></body>"""


def dump(path: Path) -> tuple[str, list[str]]:
    """The page's document once it is there, and what the browser's console said."""
    if not PROGRAM.exists():
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "--dump-dom", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured(page: str, folder: Path, width: int) -> tuple[int, int, str, bool]:
    """Width of the window and of the page, tags that reach over it, whether all images show.

    A browser's own window is 500 pixels wide at least, so the page stands in a frame.
    """
    asking = _POLICY.sub("", page).replace("</body>", _ASK, 1)
    outer = folder / "outer.html"
    outer.write_text(
        "<!doctype html><title>x</title><script>onmessage = "
        "e => { document.title = JSON.stringify(e.data) }</script>"
        f'<iframe style="border: 0; width: {width}px; height: 800px" '
        f'srcdoc="{html.escape(asking)}"></iframe>'
    )
    shown, _ = dump(outer)
    return tuple(json.loads(html.unescape(re.search("<title>(.*?)</title>", shown)[1])))
