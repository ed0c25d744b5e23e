"""Atomic file writing: into a temporary file beside, flushed to the disk, then renamed."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from engine.core.errors import UserError

Write = Callable[[Path, bytes], None]


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that replaces `path` when the block ends without an error.

    A link at `path` is replaced, never followed: whoever placed it would choose what is
    overwritten. A device, a pipe, or a link of the system such as `/dev/stdout` is written to
    directly.

    Raises:
      OSError: it can't be written; the old file and no temporary one is there.
    """
    if _is_stream(path):
        follow = 0 if path.is_symlink() else os.O_NOFOLLOW
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | follow), "ab") as file:
            yield file
        return
    part = temporary_path(path)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(part, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def _is_stream(path: Path) -> bool:
    if path.is_symlink():
        folder = os.path.realpath(path.parent)
        return folder == "/dev" or folder.startswith("/proc/")
    return path.exists() and not (path.is_file() or path.is_dir())


def open_in_place(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Opens a file that keeps its name while it is written; returns its descriptor.

    Raises:
      OSError: it can't be opened, or is a link, of any kind, or no regular file.
    """
    problem = f"{path.name} is a link"
    try:
        # Without O_NONBLOCK a named pipe would wait for its other end.
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, problem, str(path)) from None
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        problem = f"{path.name} is not a regular file"
    raise OSError(errno.EINVAL, problem, str(path))


def write(path: Path, data: bytes) -> None:
    """Writes the whole file or leaves the old one; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, so that they survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(handle)


def write_output(path: Path, data: bytes, flag: str) -> None:
    """Writes a file to the path that the user gave with a flag, in a new folder if need be.

    Raises:
      UserError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, data)
    except OSError as error:
        raise UserError(
            f"--{flag}: {path} can't be written ({error.strerror}); name another path"
        ) from None


def temporary_path(path: Path) -> Path:
    """Returns a new name, which nobody can know before, for a file that becomes `path`."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")


def leftovers(folder: Path, name: str = "*") -> list[Path]:
    """Returns the temporary files in a folder that killed processes left."""
    return list(folder.glob(f".{name}.{'[0-9a-f]' * 16}.part"))


def write_json(path: Path, value: Any, write: Write = write) -> None:
    """Writes a value as indented JSON; see `open_atomic`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    write: Write = write,
) -> None:
    """Writes a header row and the rows; see `open_atomic`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
