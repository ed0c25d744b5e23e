"""TensorFlow's profiler over a range of steps; TensorBoard shows what it saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf


class Profiler:
    """Records the calls that make the steps `first` to `last` of a run, counted from 1.

    say: told where the record lies, or why there is none.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.steps, self.folder, self.say = steps, folder, say
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

    def end(self, step: int) -> None:
        """Called when `step` steps are done and no other comes."""
        self.close()
        if self.steps:
            first, last = self.steps
            self.say(
                f"--profile_steps={first}-{last}: nothing was recorded, as these steps did not "
                f"come; the run's last step is {step}"
            )

    def close(self) -> None:
        """Writes what was recorded, if anything was."""
        if not self.running:
            return
        self.running, self.steps = False, None
        try:
            tf.profiler.experimental.stop()
        except (OSError, tf.errors.OpError) as error:  # a full disk is no end
            self.say(f"no profile was written: {str(error).splitlines()[0]}")
        else:
            self.say(f"the profile is written to {self.folder / 'plugins' / 'profile'}")
