"""One process at a time works in a run's directory, whatever becomes of the directory meanwhile.

The lock is the system's and ends with its process, however that ends. It lies on a file: where the
directory is removed and made anew, that is another file, and another lock.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from engine.core.errors import UserError
from engine.core.files import write
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory, require_own_directory, require_same_recipe


@contextmanager
def run_lock(run: RunDirectory) -> Iterator[None]:
    """Holds the run for this process; the lock of a process that died is free.

    Raises:
      UserError: another process holds it, the directory can't be written, or it is no run's.
    """
    try:
        require_own_directory(run)
        run.path.mkdir(parents=True, exist_ok=True)
        _hold(run)
    except OSError as error:
        raise UserError(
            f"--run_dir={run.path}: can't be written ({error.strerror}); name another --run_dir="
        ) from None
    try:
        yield
    finally:
        run.held.pop().close()


def _hold(run: RunDirectory) -> None:
    """Takes the lock that lies there, in place of the one that was held.

    Raises:
      OSError: it can't be written.
      UserError: another process holds it.
    """
    file = open(run.lock, "a+")  # noqa: SIM115 (held as long as the run is)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            raise UserError(
                f"--run_dir={run.path}: process {file.read().strip() or 'unknown'} is at work "
                "there; wait for it or name another --run_dir="
            ) from None
    for old in run.held:
        old.close()
    run.held[:] = [file]
    os.ftruncate(file.fileno(), 0)
    # The file may be seen from other machines and containers, which number processes of their own.
    os.write(file.fileno(), f"{os.getpid()} on {platform.node()}".encode())


def holds_lock(run: RunDirectory) -> bool:
    """Whether the lock that lies there is the one that this process took, if it took one."""
    try:
        return all(os.path.samestat(os.fstat(file.fileno()), run.lock.stat()) for file in run.held)
    except FileNotFoundError:
        return False


def recreate_directory(run: RunDirectory, recipe: Recipe) -> bool:
    """Makes the directory of a run at work again where somebody removed it; whether it had to.

    What it lay in is not made: that may be a drive that comes back.

    Raises:
      OSError: it can't be made.
      UserError: another run has taken its place; nothing there is touched.
    """
    run.path.mkdir(exist_ok=True)
    if not holds_lock(run):
        _hold(run)
        if run.recipe.exists():
            require_same_recipe(run, recipe)
    if run.checkpoints.is_dir() and run.recipe.exists():
        return False
    run.checkpoints.mkdir(exist_ok=True)
    write(run.recipe, to_json(recipe).encode())
    return True
