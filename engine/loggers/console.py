"""Logs to the terminal: a live line there, plain lines where the output goes to a file."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from engine.core.text import duration
from engine.evaluation.evaluate import Evaluation
from engine.loggers.base import Logger, StepMetrics

HEADINGS = "  epoch     loss      acc  val loss  val acc  images/s  wait      s"
PLAIN_SECONDS = 15.0  # between two plain lines within an epoch


class LogConsole(Console):
    """A console whose reader may go away."""

    def on_broken_pipe(self) -> None:
        """Prints no more; rich would end the process, and the run with it."""
        self.quiet = True


class ConsoleLogger(Logger):
    """Prints what a run logs. Use it as a context: the live line ends with the block."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or LogConsole(highlight=False, file=sys.stdout)
        self.live: Live | None = None
        self.sign = Spinner("line", style="cyan")
        self.last_plain = time.monotonic()
        self.phase: str | None = None  # whose epochs have been headed

    def __enter__(self) -> ConsoleLogger:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            with contextlib.suppress(OSError):
                self.live.stop()

    def note(self, line: str) -> None:
        # The output may be on a full disk or a closed terminal; that does not end a run.
        with contextlib.suppress(OSError):
            # As Text, since rich would show `:cat:` in a plain string as an emoji.
            self.console.print(Text(line), soft_wrap=True)

    def step(self, metrics: StepMetrics) -> None:
        if self.live:
            self._show(describe_step(metrics))
        elif time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            self.note(describe_step(metrics))

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        self.last_plain = time.monotonic()
        if self.live:  # until the next step, or while the best model is tested
            self._show(f"{row['phase']} epoch {row['epoch']} is over")
        width = max(len(row["phase"]), len("phase"))
        if row["phase"] != self.phase:
            self.phase = row["phase"]
            self.note(f"{'phase':{width}}{HEADINGS}")
        self.note(
            f"{row['phase']:{width}}  {row['epoch']:5}  {row['train_loss']:7.4f}  "
            f"{row['train_accuracy']:7.2%}  {row['val_loss']:8.4f}  {row['val_accuracy']:7.2%}  "
            f"{row['images_per_second']:8.0f}  {row['data_wait_fraction']:4.0%}  "
            f"{row['seconds']:5.0f}{'  best' if best else ''}"
        )

    def end(self, result: dict[str, Any]) -> None:
        if self.live:
            self._show("writing the report")

    def _show(self, line: str) -> None:
        """Shows what the run is at behind a sign that moves, cut to the width of the terminal."""
        assert self.live
        text = Text(line)
        text.truncate(self.console.width - 2, overflow="ellipsis")
        self.sign.update(text=text)
        self.live.update(self.sign)


def describe_step(metrics: StepMetrics) -> str:
    left = metrics.steps_left * metrics.batch_size / metrics.images_per_second
    return (
        f"{metrics.phase.name} epoch {metrics.epoch}/{metrics.phase.epochs}, "
        f"step {metrics.step_of_epoch}/{metrics.steps_per_epoch}: "
        f"{metrics.images_per_second:.0f} images/s, {metrics.wait_fraction:.0%} waiting for data, "
        f"loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.2%}, {duration(left)} left in phase"
    )
