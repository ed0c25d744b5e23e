"""What `result.json` says of a run that failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.core.files import write_json
from engine.runs.lock import RunLock
from engine.runtime.shutdown import ShutdownRequested


@contextmanager
def record_failure(lock: RunLock) -> Iterator[None]:
    """Writes to `result.json` how the block failed; the run can be resumed."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | ShutdownRequested)
        status = "interrupted" if stopped else "failed"
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        with suppress(OSError):  # the failure itself matters more
            if lock.owns_directory():
                write_json(lock.run.result, {"status": status, "reason": reason})
        raise
