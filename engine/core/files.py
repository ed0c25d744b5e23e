"""How files are written: beside, to the disk, then renamed. Standard library only."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core.errors import UserError


def write(path: Path, data: bytes) -> None:
    """Writes the whole file or leaves the old one: beside, to the disk, then renamed.

    What is no file, such as `/dev/null` or a pipe, stays what it is and is written into; a link
    leads to what was written.

    Raises:
      OSError: it can't be written; what there is of it takes no room any more.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    part = part_path(path)
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names last as well as what they stand for, when the power fails."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(handle)


def write_image(path: Path, data: bytes, flag: str) -> None:
    """Writes an image where the user wants it, named by a flag.

    Raises:
      UserError: the place can't be written.
    """
    try:
        write(path, data)
    except OSError as error:
        raise UserError(
            f"--{flag}={path}: can't be written ({error.strerror}); name another file"
        ) from None


def part_path(path: Path) -> Path:
    """Where a file grows until it is whole."""
    return path.with_name(f"{path.name}.part")


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
