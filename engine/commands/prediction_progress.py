"""How far predictions into a file are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from engine.core.text import counted, duration
from engine.inference.predictions_file import PredictionCounts
from engine.loggers.console import PLAIN_SECONDS


class PredictionProgress:
    """Use it as a context, in which a terminal shows the bar."""

    def __init__(self) -> None:
        self.total, self.counts = 0, PredictionCounts()
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.printed = time.monotonic()
        self.first: tuple[int, float] | None = None  # rows and time, after the first group

    def __enter__(self) -> PredictionProgress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.total:
            self.bar.stop()

    def start(self, total: int, counts: PredictionCounts) -> None:
        self.total, self.counts = total, counts
        self.task = self.bar.add_task("", total=total, completed=counts.rows)
        self.bar.start()

    def note(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def update(self) -> None:
        """The speed is measured from the first group on, in which the network is compiled."""
        self.first = self.first or (self.counts.rows, time.monotonic())
        if self.console.is_terminal:
            self.bar.update(self.task, completed=self.counts.rows, description=self.describe())
        elif time.monotonic() - self.printed > PLAIN_SECONDS:
            self.printed = time.monotonic()
            self.note(self.describe())

    def describe(self) -> str:
        """`1,024 of 100,000 images, 410 a second, 4 min 1 s left, 2 unreadable`."""
        rows, unread = self.counts.rows, self.counts.unreadable
        before, started = self.first or (rows, 0.0)
        speed = (rows - before) / max(time.monotonic() - started, 1e-3)
        done = "" if rows == self.total else f"{rows:,} of "
        parts = [done + counted(self.total, "image", "images")]
        if speed:
            parts.append(f"{speed:,.0f} a second")
            if rows < self.total:
                parts.append(f"{duration((self.total - rows) / speed)} left")
        return ", ".join([*parts, *([f"{unread:,} unreadable"] if unread else [])])
