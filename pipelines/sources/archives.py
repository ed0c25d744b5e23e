"""NumPy's archives (`.npz`), read so that a small file can't ask for much memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def open_archive(path: str | os.PathLike[str], most: int) -> Iterator[Any]:
    """The arrays in a file by their names, each unpacked when it is asked for; objects are refused.

    Args:
      most: bytes that all of them may take together.

    Raises:
      Exception: of any kind, within the block too; a damaged archive fails in as many ways as there
        are bytes in it.
    """
    with np.load(path, allow_pickle=False) as kept:
        claimed = sum(member.file_size for member in kept.zip.infolist())
        if claimed > most:
            raise ValueError(f"its members claim {claimed} bytes, more than {most}")
        yield kept


def read_column(kept: Any, name: str, kind: Any, count: int | None = None) -> np.ndarray:
    """An array [N] of the archive; N is `count`, where that is given.

    Raises:
      ValueError: it is of another type or shape. Others as above.
    """
    found = kept[name]
    if found.dtype != kind or found.ndim != 1 or count not in (None, len(found)):
        raise ValueError(f"{name} is {found.dtype} {found.shape}")
    return found
