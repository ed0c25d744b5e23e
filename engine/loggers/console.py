"""The terminal: a live line where somebody looks, plain lines where the output goes to a file."""

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
from engine.loggers.base import StepMetrics

PLAIN_SECONDS = 15.0  # between two plain lines within an epoch


class ConsoleLogger:
    """A watch that prints. Use it as a context: the live line ends with the block."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, file=sys.stdout)
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
        # The output may lie on a full disk, or be a terminal that is gone: that ends no run.
        with contextlib.suppress(OSError):
            # As Text, since in a plain string rich would see an image of a cat in `:cat:`.
            self.console.print(Text(line), soft_wrap=True)

    def step(self, moment: StepMetrics) -> None:
        if self.live:
            self.live.update(Text(describe(moment), style="cyan"))
        elif time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            self.note(describe(moment))

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        self.last_plain = time.monotonic()
        self.note(
            f"{row['phase']} epoch {row['epoch']}: "
            f"loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2%}; "
            f"validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.2%}; "
            f"{row['images_per_second']:.0f} images/s, {row['data_wait_fraction']:.0%} waiting, "
            f"{row['seconds']:.0f} s{'  (best)' if best else ''}"
        )

    def end(self) -> None:
        """Nothing: what there is to say at the end, the program says."""


def describe(moment: StepMetrics) -> str:
    left = moment.steps_left * moment.batch_size / moment.images_per_second
    return (
        f"{moment.phase.name} epoch {moment.epoch}/{moment.phase.epochs}, "
        f"step {moment.step_of_epoch}/{moment.steps_per_epoch}: "
        f"{moment.images_per_second:.0f} images/s, {moment.wait_fraction:.0%} waiting for data, "
        f"loss {moment.loss:.4f}, accuracy {moment.accuracy:.2%}, {duration(left)} left in phase"
    )
