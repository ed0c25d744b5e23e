"""Logs to the terminal: a live line there, plain lines where the output goes to a file."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from engine.core.text import duration
from engine.evaluation.evaluate import Evaluation
from engine.loggers.base import Logger, StepMetrics

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
        self.last_plain = time.monotonic()

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
            self.live.update(Text(describe_step(metrics), style="cyan"))
        elif time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            self.note(describe_step(metrics))

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        self.last_plain = time.monotonic()
        self.note(
            f"{row['phase']} epoch {row['epoch']}: "
            f"loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2%}; "
            f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.2%}; "
            f"{row['images_per_second']:.0f} images/s, {row['data_wait_fraction']:.0%} waiting, "
            f"{row['seconds']:.0f} s{'  (best)' if best else ''}"
        )


def describe_step(metrics: StepMetrics) -> str:
    left = metrics.steps_left * metrics.batch_size / metrics.images_per_second
    return (
        f"{metrics.phase.name} epoch {metrics.epoch}/{metrics.phase.epochs}, "
        f"step {metrics.step_of_epoch}/{metrics.steps_per_epoch}: "
        f"{metrics.images_per_second:.0f} images/s, {metrics.wait_fraction:.0%} waiting for data, "
        f"loss {metrics.loss:.4f}, accuracy {metrics.accuracy:.2%}, {duration(left)} left in phase"
    )
