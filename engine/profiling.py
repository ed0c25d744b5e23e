"""TensorFlow's profiler over a range of steps; TensorBoard shows what it saw."""

from __future__ import annotations

import contextlib
from pathlib import Path

import tensorflow as tf


class Profiler:
    """Records the calls that make the steps `first` to `last` of a run, counted from 1."""

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self.steps, self.folder = steps, folder
        self.running = False

    def before(self, step: int) -> None:
        """Called before the step after `step` steps are done."""
        if self.steps and not self.running and self.steps[0] <= step + 1 <= self.steps[1]:
            tf.profiler.experimental.start(str(self.folder))
            self.running = True

    def after(self, step: int) -> None:
        """Called when `step` steps are done."""
        if self.running and self.steps and step >= self.steps[1]:
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if anything was."""
        if self.running:
            self.running, self.steps = False, None
            with contextlib.suppress(OSError, tf.errors.OpError):  # a full disk is no end
                tf.profiler.experimental.stop()
