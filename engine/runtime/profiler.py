"""TensorFlow's profiler over a range of steps, to be viewed in TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf


class Profiler:
    """Profiles the calls that run the steps `first` to `last` of a run, counted from 1."""

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, log: Callable[[str], None]
    ) -> None:
        """
        Args:
          steps: first and last; None to profile nothing.
          folder: of the run's event files.
          log: receives where the profile is written, or why there is none.
        """
        self.steps, self.folder, self.log = steps, folder, log
        self.running = False

    def before_step(self, step: int) -> None:
        """To be called before a step, with the number of steps done."""
        if self.steps and not self.running and self.steps[0] <= step + 1 <= self.steps[1]:
            tf.profiler.experimental.start(str(self.folder))
            self.running = True

    def after_step(self, step: int) -> None:
        """To be called after a step, with the number of steps done."""
        if self.running and self.steps and step >= self.steps[1]:
            self.close()

    def end_run(self, step: int) -> None:
        """To be called after the run's last step, with the number of steps done."""
        self.close()
        if self.steps:
            first, last = self.steps
            self.log(
                f"--profile_steps={first}-{last}: nothing was profiled, as the run ended before; "
                f"its last step is {step}"
            )

    def close(self) -> None:
        """Writes the profile, if there is one."""
        if not self.running:
            return
        self.running, self.steps = False, None
        try:
            tf.profiler.experimental.stop()
        except (OSError, tf.errors.OpError) as error:  # a full disk must not end the run
            self.log(f"no profile was written: {str(error).splitlines()[0]}")
        else:
            self.log(f"the profile is written to {self.folder / 'plugins' / 'profile'}")
