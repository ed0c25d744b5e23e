"""How much memory this process can still have, by the machine and by its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Limit, use, and the line of memory.stat that counts pages of files, which the system takes back
# when it must: control groups of version 2, then 1 (Linux, admin-guide/cgroup-v2 and cgroup-v1).
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes; the least of what `/proc/meminfo` and the control groups leave.

    Args:
      root: where `proc` and `sys` are.
    """
    left = [
        number
        for group in _groups(root)
        for names in _FILES
        if (number := _left(group, *names)) is not None
    ]
    return max(0, min([_counted(root / "proc/meminfo", "MemAvailable:") * 1024, *left]))


def _groups(root: Path) -> Iterator[Path]:
    """The folder of each control group that may limit this process's memory, and those above it."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Of version 2 there are no controllers named; beside version 1 it lies one deeper.
        tops = [top / "memory"] if "memory" in controllers.split(",") else []
        tops += [] if controllers else [top, top / "unified"]
        for place in tops:
            group = place / path.lstrip("/")
            # In a container the path can be the host's, and the group itself is then the top.
            yield from (folder for folder in (group, *group.parents) if _within(folder, place))


def _within(folder: Path, top: Path) -> bool:
    return folder == top or top in folder.parents


def _left(group: Path, limit: str, used: str, idle: str) -> int | None:
    """Bytes left in one control group; None where it has no limit."""
    try:
        most, now = (int((group / name).read_text()) for name in (limit, used))
    except (OSError, ValueError):  # not of this version, or `max`
        return None
    return most - now + _counted(group / "memory.stat", idle)


def _counted(path: Path, name: str) -> int:
    """The number behind a name in a file with one such pair a line; 0 where it is not there."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(pair[1]) for pair in pairs if pair[:1] == [name]), 0)
