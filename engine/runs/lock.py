"""One process at a time writes to a run's directory, even if it is deleted and recreated meanwhile.

The lock is the system's and ends with its process, however that ends. It lies on a file: where the
directory is deleted and recreated, that is another file, and another lock.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.core import digests
from engine.core.errors import UserError
from engine.core.files import write_json
from engine.core.locks import FileLock
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory, require_own_directory, require_same_recipe
from engine.runtime.shutdown import ShutdownRequested


class RunLock:
    """The lock of a run's directory, held within a `with` block.

    Where it is never entered, as for a run that nothing else can know of, the directory counts as
    this process's own.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._file: FileLock | None = None
        self._created: list[Path] = []  # the directory and its parents, where they were missing

    def __enter__(self) -> RunLock:
        """Takes the lock; the lock of a process that died is free.

        Raises:
          UserError: another process holds it, the directory can't be written, or holds no run.
        """
        try:
            require_own_directory(self.run)
            path = self.run.path
            self._created = [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise UserError(
                f"--run_dir={self.run.path}: can't be written ({error.strerror}); "
                "name another --run_dir="
            ) from None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        """Releases the lock, and removes what it created for a run that was refused."""
        begun = self.run.started() or self.run.nan_batch.exists()
        named = str(self.run.path) in str(error)  # such as the list of broken images
        if isinstance(error, UserError) and not begun and not named:
            self._remove_created()
        if self._file:
            self._file.close()
            self._file = None

    def _remove_created(self) -> None:
        if self._created and self.owns_directory():
            shutil.rmtree(self.run.path, ignore_errors=True)
            with suppress(OSError):  # another run is in there
                for folder in self._created[1:]:
                    folder.rmdir()

    def _acquire(self) -> None:
        """Locks the file at its path now, in place of the one held before.

        Raises:
          OSError: it can't be written.
          UserError: another process holds it.
        """
        file = FileLock(self.run.lock)
        if not file.acquire():
            with file:
                holder = os.read(file.descriptor, 1000).decode("utf-8", "replace").strip()
            raise UserError(
                f"--run_dir={self.run.path}: locked by process {holder or 'unknown'}; "
                "wait for it or name another --run_dir="
            )
        if self._file:
            self._file.close()
        self._file = file
        os.ftruncate(file.descriptor, 0)
        # Other machines and containers may read the file; they number processes on their own.
        os.write(file.descriptor, f"{os.getpid()} on {platform.node()}".encode())

    def owns_directory(self) -> bool:
        """Whether the directory's lock is the one that this process took, if it took one."""
        return not self._file or self._file.is_current()

    def recreate_directory(self, recipe: Recipe) -> bool:
        """Creates the directory of a run at work again if it was deleted.

        Its parent is not created: that may be a drive that comes back.

        Returns:
          whether it had to be created.

        Raises:
          OSError: it can't be created.
          UserError: another run has taken its place; nothing there is touched.
        """
        run = self.run
        run.path.mkdir(exist_ok=True)
        if not self.owns_directory():
            self._acquire()
            if run.recipe.exists():
                require_same_recipe(run, recipe)
        if run.checkpoints.is_dir() and run.recipe.exists():
            return False
        run.checkpoints.mkdir(exist_ok=True)
        digests.write(run.recipe, to_json(recipe).encode())
        return True

    @contextmanager
    def record_failure(self) -> Iterator[None]:
        """Writes to `result.json` how the block failed; the run can be resumed."""
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | ShutdownRequested)
            status = "interrupted" if stopped else "failed"
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            with suppress(OSError):  # the failure itself matters more
                if self.owns_directory():
                    values = {"status": status, "reason": reason}
                    write_json(self.run.result, values, digests.write)
            raise
