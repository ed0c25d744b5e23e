"""The output folder of an export: built beside, renamed at the end, removed after a failure.

While `out` is built, a lock lies beside it. The lock ends with its process, so what a killed export
left is removed by the next one to `out`, if it is the user's own.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.locks import FileLock

PARITY, CARD = "parity.json", "MODEL_CARD.md"


@contextmanager
def create(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a new folder that becomes `out` if the block succeeds, and is removed if it fails.

    Raises:
      UserError: see `require_free`; or `out` can't be written, or another process is writing it.
    """
    out = Path(os.path.realpath(out))
    partial, replaced = _beside(out, "part"), _beside(out, "old")
    missing = [folder for folder in out.parents if not os.path.exists(folder)]
    try:
        with suppress(FileExistsError):
            out.parent.mkdir(parents=True)
        with _locked(out):
            _restore(replaced, out)  # of an export that was killed between two renames
            require_free(out, overwrite)
            if _is_own(partial):
                shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                yield partial
                _sync(partial)
                require_free(out, overwrite)  # `out` may have been filled meanwhile
                _move_into_place(partial, replaced, out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except BaseException as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if reason := _write_error_reason(error, out.parent):
            raise _write_error(out, reason) from None
        raise


def _beside(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.export-{kind}")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Holds the lock of `out`, a file that is removed at the end, if the file system has locks.

    Raises:
      UserError: another process holds it.
    """
    with FileLock(_beside(out, "lock")) as lock:
        try:
            free = lock.acquire() and lock.is_current()
        except OSError:  # no locks
            free = True
        if not free:
            raise UserError(
                f"--out={out}: another export to it is running; wait for it or name another --out="
            )
        try:
            yield
        finally:
            with suppress(OSError):
                lock.path.unlink()


def _restore(replaced: Path, out: Path) -> None:
    if not (_is_own(replaced) and _is_export(replaced)):
        return
    if out.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        os.rename(replaced, out)


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of this user and no link: others know the name too."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return folder.stat().st_uid == os.geteuid()


def _is_export(folder: Path) -> bool:
    names = _export_names(folder)
    return names is not None and set(os.listdir(folder)) <= names


def require_free(out: Path, overwrite: bool) -> None:
    """Requires that `out` is missing, empty, or an earlier export that may be overwritten.

    Raises:
      UserError: `out` holds other files, or an export without `overwrite`.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UserError(f"--out={out}: is not a folder; name another --out=")
    try:
        names = {entry.name for entry in out.iterdir()}
    except OSError as error:
        raise _write_error(out, str(error.strerror)) from None
    if not names:
        return
    export_names = _export_names(out)
    if export_names is None:
        raise UserError(f"--out={out}: is not empty and not an export; name another --out=")
    foreign = sorted(names - export_names)
    if foreign:
        raise UserError(
            f"--out={out}: holds {foreign[0]!r}, which is not part of the export; "
            "move it elsewhere or name another --out="
        )
    if not overwrite:
        raise UserError(
            f"--out={out}: holds an earlier export; name another --out= or add --overwrite"
        )


def _export_names(out: Path) -> set[str] | None:
    """Returns the names of the files of the export in `out`; None if it holds no export."""
    try:
        report = parse_json((out / PARITY).read_text("utf-8"))
        return {report["model"], PARITY, CARD}
    except (OSError, UnicodeDecodeError, UserError, KeyError, TypeError):
        return None


def _move_into_place(partial: Path, replaced: Path, out: Path) -> None:
    earlier = out.exists() and any(out.iterdir())
    if earlier:
        os.rename(out, replaced)
    try:
        os.rename(partial, out)
    except BaseException:
        if earlier:
            os.rename(replaced, out)
        raise
    if earlier:  # what a killed export leaves under this name is removed by the next
        os.rename(replaced, partial)


def _sync(folder: Path) -> None:
    """Flushes all files to disk, so that the rename never publishes an incomplete export."""
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                os.fsync(file.fileno())


def _write_error_reason(error: BaseException, folder: Path) -> str | None:
    """Returns why the folder can't be written; None for errors about anything else."""
    for cause in map(os.strerror, (errno.ENOSPC, errno.EDQUOT)):
        if cause in str(error):  # TensorFlow's errors have no errno
            return cause
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return error.strerror if Path(error.filename).is_relative_to(folder) else None
    return None


def _write_error(out: Path, reason: str) -> UserError:
    return UserError(f"--out={out}: can't be written ({reason}); name another --out=")
