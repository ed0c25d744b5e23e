"""Has TensorFlow Datasets download and prepare a data set: once, whole, or with a clear refusal.

Without a connection TFDS says nothing for the better part of a minute, so the hosts are tried
before it starts (`pipelines.sources.connection`). What a run that was
killed left is removed by the next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from engine.core.errors import UserError
from engine.core.locks import FileLock
from pipelines.sources import connection

INSTEAD = "--data_dir=FOLDER and --flagfile=solar_cells.flags need no download"
_ABANDONED_SECONDS = 3600  # a download that is under way writes more often than that


def prepare(builder: Any) -> None:
    """Makes the record files; of several processes that ask at once, one does and the others wait.

    The builder may know nothing of them afterwards: it is to be looked up anew.

    Raises:
      UserError: no connection, a failed download, a full disk, files that must be fetched by hand.
    """
    _require_connection(builder)
    folder = Path(os.fspath(builder.data_dir))
    try:
        with _alone(folder):
            if not builder.is_prepared():
                _remove_remains(folder, builder)
                _make(builder)
    except OSError as error:
        raise UserError(
            f"{builder.info.full_name} can't be prepared in {folder.parent}: {one_line(error)}; "
            "set TFDS_DATA_DIR to a folder with room that may be written to"
        ) from None


def _require_connection(builder: Any) -> None:
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return  # the files come from the user's own hands
    problem = connection.connection_problem(builder.url_infos or {})
    if problem:
        raise UserError(f"{builder.info.full_name} could not be fetched: {problem}; {INSTEAD}")


def _make(builder: Any) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    before = _downloads_under_way(builder)
    if not builder.url_infos:
        tfds.disable_progress_bar()  # a few seconds of local work
    try:
        # Its messages are none of the program's results.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        # Errors of the connection are OSErrors without a number; the disk's have one.
        if error.errno is not None:
            raise
        raise _failed(builder, error) from None
    except UserError:
        raise
    # Builders run code of their own and fail in any way.
    except Exception as error:
        raise _failed(builder, error) from None
    finally:
        # TFDS itself has removed the records that it had begun, but not what it was downloading.
        for remains in _downloads_under_way(builder) - before:
            shutil.rmtree(remains, ignore_errors=True)


def _failed(builder: Any, error: Exception) -> UserError:
    return UserError(
        f"{builder.info.full_name} could not be downloaded and prepared: {one_line(error)}; "
        f"start the same command again, or go on without it: {INSTEAD}"
    )


def one_line(error: Exception) -> str:
    """The error's message as one line of at most 300 characters."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
    return text if len(text) <= 300 else text[:299] + "…"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the data set's lock; the system releases it when a process dies.

    Nothing is left behind: neither the lock nor a folder that was made for it and stayed empty.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    lock = folder.parent / f".{folder.name}.lock"
    try:
        with _locked(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # not empty, or gone already
            for parent in made:
                parent.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(path)
        except FileNotFoundError:  # another process has just removed the folder
            continue
        with lock:
            lock.acquire(wait=True)
            if lock.is_current():  # else its last holder has removed the file meanwhile
                yield
                return


def _remove_remains(folder: Path, builder: Any) -> None:
    """Removes what a killed process left: TFDS prepares in `incomplete.XXXXXX_VERSION` beside."""
    for remains in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(remains, ignore_errors=True)
    for remains in _downloads_under_way(builder):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (remains, *remains.rglob("*")))
            if newest < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(remains, ignore_errors=True)


def _downloads_under_way(builder: Any) -> set[Path]:
    """The folders in which TFDS downloads; other data sets' too, as it keeps all in one place."""
    return set((Path(os.fspath(builder.data_dir_root)) / "downloads").rglob("*.tmp.*"))
