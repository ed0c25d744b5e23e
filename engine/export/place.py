"""Where an export is put: built in a folder beside, renamed at the end, nothing left on the way."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.export import leftovers

PARITY, CARD = "parity.json", "MODEL_CARD.md"


@contextmanager
def beside(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder that becomes `out` where the block ends well, and is gone where it does not.

    What exports to `out` left that were killed is cleared away first.

    Raises:
      UserError: see `refuse`; or nothing can be written there.
    """
    out = Path(os.path.realpath(out))
    leftovers.clear(out)
    refuse(out, overwrite)
    missing = [folder for folder in out.parents if not os.path.exists(folder)]
    part = leftovers.name(out, leftovers.PART, os.getpid())
    try:
        part.mkdir(parents=True)
        with leftovers.held(part):
            yield part
            _sync(part)
            refuse(out, overwrite)  # what came there meanwhile is somebody's
            _put(part, out)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if reason := _reason(error, out.parent):
            raise _unwritten(out, reason) from None
        raise


def refuse(out: Path, overwrite: bool) -> None:
    """Only what is empty, or an earlier export and nothing else, is written to.

    Raises:
      UserError: something else lies there, or an export that is not to be overwritten.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"--out={out}: is no folder; name another --out=")
    try:
        names = {entry.name for entry in out.iterdir()}
    except OSError as error:
        raise _unwritten(out, str(error.strerror)) from None
    if not names:
        return
    own = _own(out)
    if own is None:
        raise UserError(f"--out={out}: is not empty and holds no export; name another --out=")
    strange = sorted(names - own)
    if strange:
        raise UserError(
            f"--out={out}: holds {strange[0]!r}, which is no part of the export there; "
            "move it elsewhere or name another --out="
        )
    if not overwrite:
        raise UserError(
            f"--out={out}: holds an earlier export; name another --out= or add --overwrite"
        )


def _own(out: Path) -> set[str] | None:
    """The names of what an export has written there; None where none has."""
    try:
        found = parse_json((out / PARITY).read_text("utf-8"))
        return {found["model"], PARITY, CARD}
    except (OSError, UnicodeDecodeError, UserError, KeyError, TypeError):
        return None


def _put(part: Path, out: Path) -> None:
    old = leftovers.name(out, leftovers.OLD, os.getpid())
    replaced = out.exists()
    if replaced:
        os.rename(out, old)
    try:
        os.rename(part, out)
    except BaseException:
        if replaced and not out.exists():
            os.rename(old, out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """To the disk, before another name promises that it is all there."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())


def _reason(error: BaseException, folder: Path) -> str | None:
    """Why this place can't be written; None for errors about images, the run or anything else."""
    for full in map(os.strerror, (errno.ENOSPC, errno.EDQUOT)):
        if full in str(error):  # TensorFlow's errors have no number
            return full
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return error.strerror if Path(error.filename).is_relative_to(folder) else None
    return None


def _unwritten(out: Path, reason: str) -> UserError:
    return UserError(f"--out={out}: can't be written ({reason}); name another --out=")
