"""Reads NumPy archives (`.npz`) so that a small file can't claim much memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def open_archive(path: str | os.PathLike[str], most: int) -> Iterator[Any]:
    """Opens an archive whose arrays are read on access, without pickled objects.

    Args:
      most: maximum bytes of all arrays together.

    Raises:
      Exception: of any kind, also within the block, where the archive is damaged.
    """
    with np.load(path, allow_pickle=False) as archive:
        claimed = sum(member.file_size for member in archive.zip.infolist())
        if claimed > most:
            raise ValueError(f"its members claim {claimed} bytes, more than {most}")
        yield archive


def read_column(archive: Any, name: str, kind: Any, count: int | None = None) -> np.ndarray:
    """Reads an array [N] of that dtype; N is `count` if given.

    Raises:
      ValueError: it has another dtype or shape. Others as above.
    """
    column = archive[name]
    if column.dtype != kind or column.ndim != 1 or count not in (None, len(column)):
        raise ValueError(f"{name} is {column.dtype} {column.shape}")
    return column
