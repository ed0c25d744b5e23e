"""`digests.json` in a run's folder: the SHA-256 of every file that decides anything.

Each is checked when it is read, so that damage, or an edit, never changes a result unnoticed.
Whoever can write to the folder can forge both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from engine.core import files
from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError

NAME = "digests.json"


def write(path: Path, data: bytes, folder: Path | None = None) -> None:
    """Writes a file after its digest; see `files.write`.

    The digest of the file that it replaces stays beside the new one: a killed process may leave
    either file.

    Args:
      folder: of the digests; by default that of the file.

    Raises:
      OSError: one of both can't be written.
    """
    folder = folder or path.parent
    name, digest = str(path.relative_to(folder)), _digest(data)
    try:
        known = dict(_load(folder) or {})
    except UserError:  # damaged: files that are not written again are refused from now on
        known = {}
    if known.get(name, ())[-1:] != (digest,):
        known = {other: of for other, of in known.items() if (folder / other).exists()}
        before = known.get(name) and _digest(path.read_bytes())
        known[name] = (*(one for one in known.get(name, ()) if one == before), digest)
        files.write_json(folder / NAME, known)
    files.write(path, data)


def read(path: Path, folder: Path | None = None) -> bytes:
    """Reads a file and compares it with its digest; a folder without digests is not checked.

    Raises:
      OSError: it can't be read.
      UserError: it differs from what was written.
    """
    data, folder = path.read_bytes(), folder or path.parent
    known = _load(folder)
    if known is not None and _digest(data) not in known.get(str(path.relative_to(folder)), ()):
        raise UserError(
            f"{path}: doesn't match its SHA-256 in {NAME}, so it was damaged or edited; restore "
            "it, or start over with --overwrite"
        )
    return data


def covers(path: Path) -> bool:
    """Whether the digests of the file's folder have one of it."""
    try:
        return path.name in (_load(path.parent) or ())
    except UserError:
        return False


def _load(folder: Path) -> Mapping[str, tuple[str, ...]] | None:
    """Returns the digests by name, the newest last; None where there is no file of them."""
    path = folder / NAME
    try:
        return convert(parse_json(path.read_bytes()), Mapping[str, tuple[str, ...]], NAME)
    except FileNotFoundError:
        return None
    except (OSError, UserError) as error:
        raise UserError(
            f"{path}: can't be read ({error}); restore it, or start over with --overwrite"
        ) from None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
