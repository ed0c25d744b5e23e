"""The output folder of an export: built beside, renamed at the end, removed after a failure."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.export import stale_folders

PARITY, CARD = "parity.json", "MODEL_CARD.md"


@contextmanager
def create(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yields a new folder that becomes `out` if the block succeeds, and is removed if it fails.

    Removes the working folders of killed exports to `out` first.

    Raises:
      UserError: see `require_free`; or `out` can't be written.
    """
    out = Path(os.path.realpath(out))
    stale_folders.remove_stale_folders(out)
    require_free(out, overwrite)
    missing = [folder for folder in out.parents if not os.path.exists(folder)]
    partial = stale_folders.sibling_folder(out, stale_folders.PARTIAL, os.getpid())
    try:
        partial.mkdir(parents=True)
        with stale_folders.locked(partial):
            yield partial
            _sync(partial)
            require_free(out, overwrite)  # `out` may have been filled meanwhile
            _move_into_place(partial, out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if reason := _write_error_reason(error, out.parent):
            raise _write_error(out, reason) from None
        raise


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


def _move_into_place(partial: Path, out: Path) -> None:
    old = stale_folders.sibling_folder(out, stale_folders.REPLACED, os.getpid())
    replaced = out.exists()
    if replaced:
        os.rename(out, old)
    try:
        os.rename(partial, out)
    except BaseException:
        if replaced and not out.exists():
            os.rename(old, out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flushes all files to disk, so that the rename never publishes an incomplete export."""
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:
                os.fsync(file.fileno())


def _write_error_reason(error: BaseException, folder: Path) -> str | None:
    """Returns why the folder can't be written; None for errors about anything else."""
    for full in map(os.strerror, (errno.ENOSPC, errno.EDQUOT)):
        if full in str(error):  # TensorFlow's errors have no errno
            return full
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return error.strerror if Path(error.filename).is_relative_to(folder) else None
    return None


def _write_error(out: Path, reason: str) -> UserError:
    return UserError(f"--out={out}: can't be written ({reason}); name another --out=")
