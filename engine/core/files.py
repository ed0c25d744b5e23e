"""Atomic file writing: into a temporary file beside, flushed to the disk, then renamed."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from engine.core.errors import UserError


@contextmanager
def open_atomic(path: Path, unique: bool = False) -> Iterator[BinaryIO]:
    """Opens a file for writing that replaces `path` when the block ends without an error.

    A link stays a link and leads to the new file. A device or pipe, such as `/dev/null`, is
    written to directly.

    Args:
      unique: gives the temporary file a random name, for a path that several processes may write
        at the same time. Otherwise it is `part_path(path)`.

    Raises:
      OSError: it can't be written; the old file and no temporary one is there.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    part = part_path(path)
    if unique:
        part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


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


def part_path(path: Path) -> Path:
    """Returns the name of the temporary file while `path` is written."""
    return path.with_name(f"{path.name}.part")


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON; see `open_atomic`."""
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a header row and the rows; see `open_atomic`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
