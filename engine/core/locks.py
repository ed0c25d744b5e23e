"""Locks of the operating system on files and folders."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """A lock on a file or folder that ends when it is closed or its process ends.

    Attributes:
      path: what was opened.
      descriptor: of the open file, which may be read and written through it.
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        """Opens the file, and does not lock it yet.

        Args:
          flags: of `os.open`; a folder needs `os.O_RDONLY | os.O_DIRECTORY`.

        Raises:
          OSError: it can't be opened.
        """
        self.path = path
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)

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
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Releases the lock."""
        os.close(self.descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
