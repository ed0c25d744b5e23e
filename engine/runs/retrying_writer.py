"""What a run writes while it trains. Where that fails the training goes on, and it is tried again.

A disk fills up, a drive goes away: what was trained is still in memory, and somebody may put it
right. Nothing that was written before is touched, since every file is written beside the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.runs.lock import RunLock
from engine.runtime.shutdown import Shutdown

RETRY_SECONDS = 10.0
MOST_SECONDS = 3600.0  # that a run which has nothing else to do waits for a place to write to


class RetryingWriter:
    """Writes for one run, and says when that begins to fail and when it works again."""

    def __init__(
        self, lock: RunLock, recipe: Recipe, log: Callable[[str], None], stop: Shutdown
    ) -> None:
        self.lock, self.run, self.recipe, self.log, self.stop = lock, lock.run, recipe, log, stop
        self.trouble: str | None = None
        self.next_try = 0.0  # by time.monotonic(), while there is trouble

    def attempt(self, write: Callable[[], object]) -> bool:
        """Whether it could be written.

        Raises:
          UserError: another run has taken this one's place.
        """
        try:
            if self.lock.recreate_directory(self.recipe):
                self.log(f"{self.run.path} has vanished; it is made anew")
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self.trouble:
                self.log(
                    f"{self.run.path}: can't be written ({reason}); the run goes on in memory and "
                    "tries again; make room, or mount the drive"
                )
            self.trouble, self.next_try = reason, time.monotonic() + RETRY_SECONDS
            return False
        if self.trouble:
            self.log(f"{self.run.path}: can be written again")
        self.trouble = None
        return True

    def due(self, elapsed: float, period: float) -> bool:
        """Whether to write now: every `period` seconds, or RETRY_SECONDS after that failed."""
        return time.monotonic() >= self.next_try if self.trouble else elapsed >= period

    def insist(self, write: Callable[[], object]) -> None:
        """Waits until it can be written.

        Raises:
          UserError: as `attempt`; or it can't for an hour, or the run is asked to end meanwhile.
        """
        deadline = time.monotonic() + MOST_SECONDS
        while not self.attempt(write):
            if self.stop.reason or time.monotonic() > deadline:
                raise UserError(self.lost("the run is over"))
            self.stop.wait(RETRY_SECONDS)

    def lost(self, what: str) -> str:
        """For a run that ends without having been able to write."""
        return (
            f"{what}, and {self.run.path} can't be written ({self.trouble}); what was trained "
            "since the last checkpoint is lost; make room, then start the same command again"
        )
