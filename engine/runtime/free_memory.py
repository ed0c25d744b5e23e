"""How much memory this process can still have, and how it frees more."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Limit, usage, and the line of memory.stat that counts file pages, which the system reclaims when
# it must: control groups of version 2, then 1 (Linux, admin-guide/cgroup-v2 and cgroup-v1).
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/")) -> int:
    """Returns the least bytes that `/proc/meminfo` and the control groups leave.

    Args:
      root: the folder of `proc` and `sys`.
    """
    left = [_read_number(root / "proc/meminfo", "MemAvailable:") * 1024]
    for group in _groups(root):
        for limit, usage, reclaimable in _FILES:
            try:
                limit_bytes, used = (int((group / name).read_text()) for name in (limit, usage))
            except (OSError, ValueError):  # of the other version, or `max`
                continue
            left.append(limit_bytes - used + _read_number(group / "memory.stat", reclaimable))
    return max(0, min(left))


@contextmanager
def frequent_collections() -> Iterator[None]:
    """Collects objects of the block in circles soon, however few they are.

    The optimizers of tf2onnx leave a copy of the network each: of 90 MB they held 7 GB, in too few
    objects for Python to look.
    """
    thresholds = gc.get_threshold()
    gc.freeze()  # what was there before costs no time then
    gc.collect()  # and does not count
    gc.set_threshold(500, 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _groups(root: Path) -> Iterator[Path]:
    """Yields the folders of the control groups that may limit this process's memory."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 names no controllers; beside version 1 it is one folder deeper.
        tops = [top / "memory"] if "memory" in controllers.split(",") else []
        tops += [] if controllers else [top, top / "unified"]
        for base in tops:
            group = base / path.lstrip("/")
            # In a container the path can be the host's, and the group itself is then the top.
            yield from (f for f in (group, *group.parents) if f == base or base in f.parents)


def _read_number(path: Path, name: str) -> int:
    """Returns the number after a name in a file with one such pair a line; 0 if it is missing."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(pair[1]) for pair in pairs if pair[:1] == [name]), 0)
