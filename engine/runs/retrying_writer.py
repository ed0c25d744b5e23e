"""Writes that don't end a run when they fail: training continues, and they are retried.

A disk fills up, a drive goes away: what was trained is still in memory, and somebody may fix it.
Files written before are not damaged, since every file is written beside the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.core.errors import UserError
from engine.core.recipe import Recipe
from engine.runs.lock import RunLock
from engine.runtime.shutdown import Shutdown

RETRY_SECONDS = 10.0
MAX_WAIT_SECONDS = 3600.0  # at the end of a run


class RetryingWriter:
    """Writes for one run; logs when that starts to fail and when it works again.

    Attributes:
      trouble: why the last write failed; None where it worked.
    """

    def __init__(
        self, lock: RunLock, recipe: Recipe, log: Callable[[str], None], shutdown: Shutdown
    ) -> None:
        self.lock, self.run, self.recipe = lock, lock.run, recipe
        self.log, self.shutdown = log, shutdown
        self.trouble: str | None = None
        self.next_try = 0.0  # by time.monotonic(), while there is trouble

    def attempt(self, write: Callable[[], object]) -> bool:
        """Writes; returns whether that worked.

        Raises:
          UserError: another run has taken this one's place.
        """
        try:
            if self.lock.recreate_directory(self.recipe):
                self.log(f"{self.run.path} was deleted; recreating it")
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self.trouble:
                self.log(
                    f"{self.run.path}: can't be written ({reason}); the run continues in memory "
                    "and retries; free some space or mount the drive"
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
        """Retries until it is written.

        Raises:
          UserError: as `attempt`; or it fails for an hour, or shutdown is requested meanwhile.
        """
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while not self.attempt(write):
            if self.shutdown.reason or time.monotonic() > deadline:
                raise UserError(self.lost("training is finished"))
            self.shutdown.wait(RETRY_SECONDS)

    def lost(self, what: str) -> str:
        """Returns the message of a run that ends while it can't write."""
        return (
            f"{what}, and {self.run.path} can't be written ({self.trouble}); what was trained "
            "since the last checkpoint is lost; free some space, then run the same command again"
        )
