"""Working folders beside an export: locks them, and removes those of killed processes.

The lock on a folder ends with its process. A process may run in another container or on another
machine with the same disk, and some file systems have no locks. So only unlocked folders whose
process does not run here are removed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.core.locks import FileLock

PARTIAL, REPLACED = "part", "old"  # a folder being built; an earlier export being replaced


def sibling_folder(out: Path, kind: str, process: int) -> Path:
    """Returns the path of a working folder of the export to `out`."""
    return out.with_name(f".{out.name}.{process}.{kind}")


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Locks a folder while the block runs; yields False if it can't be locked."""
    with FileLock(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as lock:
        try:
            locked = lock.acquire()
        except OSError:
            locked = False
        yield locked


def remove_stale_folders(out: Path) -> None:
    """Removes the folders that killed exports to `out` left; restores an export they moved."""
    try:
        siblings = os.listdir(out.parent)
    except OSError:
        return
    pattern = re.compile(rf"\.{re.escape(out.name)}\.([0-9]+)\.({PARTIAL}|{REPLACED})")
    matches = filter(None, map(pattern.fullmatch, siblings))
    for process in sorted({int(match[1]) for match in matches}):
        if not _is_running(process):
            with suppress(OSError):  # not a folder, or not permitted
                _remove_folders(out, process)


def _remove_folders(out: Path, process: int) -> None:
    # The partial folder first: if it is locked, its process is still at work.
    for kind in (PARTIAL, REPLACED):
        folder = sibling_folder(out, kind, process)
        with suppress(FileNotFoundError), locked(folder) as lock_acquired:
            if not lock_acquired or folder.stat().st_uid != os.geteuid():
                return
            if kind == REPLACED and not os.path.lexists(out):
                os.rename(folder, out)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's process
    return True
