"""Folders beside an export: which are at work, and which a process left that was killed.

A folder is held by a lock on it, which is the system's and ends with its process. A process may be
unknown here and alive, in another container or on another machine with this disk; and where a disk
knows no locks, nobody can tell. So only what is unlocked and of no process here is cleared away.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.core.locks import FileLock

PART, OLD = "part", "old"  # one that is built, and an earlier export that makes way for it


def name(out: Path, kind: str, process: int) -> Path:
    return out.with_name(f".{out.name}.{process}.{kind}")


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Locks a folder while the block runs; False where it can't be locked."""
    with FileLock(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as lock:
        try:
            locked = lock.acquire()
        except OSError:
            locked = False
        yield locked


def clear(out: Path) -> None:
    """Removes what killed exports to `out` left beside it; one that they moved away comes back."""
    try:
        beside = os.listdir(out.parent)
    except OSError:
        return
    named = re.compile(rf"\.{re.escape(out.name)}\.([0-9]+)\.({PART}|{OLD})")
    for process in sorted({int(found[1]) for entry in beside if (found := named.fullmatch(entry))}):
        if not _alive(process):
            with suppress(OSError):  # no folder, or nothing that we may remove
                _clear(out, process)


def _clear(out: Path, process: int) -> None:
    # The part first: where it is held, its process is about to put things right itself.
    for kind in (PART, OLD):
        folder = name(out, kind, process)
        with suppress(FileNotFoundError), held(folder) as free:
            if not free or folder.stat().st_uid != os.geteuid():
                return
            if kind == OLD and not os.path.lexists(out):
                os.rename(folder, out)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True
