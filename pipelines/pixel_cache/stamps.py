"""Whether an image is still the one that was seen, told from its file's name, size and time."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import struct
from collections.abc import Sequence

import numpy as np

BYTES = 16
MISSING = os.strerror(errno.ENOENT).lower()  # what is said of a file that is not there
_STATUS = struct.Struct("<qq")  # size, modification time in nanoseconds
_STRETCH = struct.Struct("<qq")  # offset, length
_REMEMBERED = 4096  # files: record files hold many examples each


def stamp(
    paths: Sequence[str] | np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, dict[int, str]]:
    """A digest of (absolute path, size, modification time, offset, length) for each example.

    No file is opened: to open a named pipe would wait for a writer that never comes.

    Args:
      paths, offsets, lengths: N of each, as in `examples.Examples`.

    Returns:
      S16 [N], all zero where there is no file that can be read; and index -> reason of those.
    """
    status = functools.lru_cache(_REMEMBERED)(_status)
    digests, faults = [], {}
    stretches = zip(offsets.tolist(), lengths.tolist(), strict=True)
    for index, (path, stretch) in enumerate(zip(paths, stretches, strict=True)):
        try:
            text = status(path) + _STRETCH.pack(*stretch)
            digests.append(hashlib.blake2b(text, digest_size=BYTES).digest())
        except OSError as error:
            faults[index] = of_system(error)
            digests.append(bytes(BYTES))
    return np.frombuffer(b"".join(digests), dtype=f"S{BYTES}"), faults


def _status(path: str) -> bytes:
    """The file's part of the stamp.

    Raises:
      OSError: there is none, it is no regular file, or it may not be read.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # `abspath` takes longer than all the rest, and nearly every path is absolute already.
    absolute = path if path.startswith("/") else os.path.abspath(path)
    return os.fsencode(absolute) + b"\0" + _STATUS.pack(found.st_size, found.st_mtime_ns)


def of_system(error: OSError) -> str:
    """What the system says of a file, as the other reasons are written."""
    return (error.strerror or str(error)).lower()
