"""Locks of the operating system on files."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from engine.core.files import open_in_place


class FileLock:
    """A lock on a file that ends when it is closed or its process ends.

    Attributes:
      path: what was opened.
      descriptor: of the open file, which may be read and written through it.
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        """Opens the file with flags of `os.open`, and does not lock it yet.

        Raises:
          OSError: see `open_in_place`.
        """
        self.path = path
        self.descriptor = open_in_place(path, flags)

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Locks it, or turns a lock that is already held into one of this kind.

        Args:
          shared: other shared locks may be held at the same time.
          wait: until it is free.

        Returns:
          Whether it is locked now; False where another holder has it and `wait` is False.

        Raises:
          OSError: the file system has no locks.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self.descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_current(self) -> bool:
        """Whether the path still names this file; False after it was removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Releases the lock."""
        os.close(self.descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
