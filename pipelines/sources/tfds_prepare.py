"""Downloads and prepares a data set by TensorFlow Datasets, once for all processes.

Without a connection TFDS says nothing for most of a minute, so the hosts are tested first
(`pipelines.sources.network_check`). Files that a killed run left are removed by the next.
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
from engine.core.text import shorten
from pipelines.sources import network_check

INSTEAD = "--data_dir=FOLDER and --flagfile=solar_cells.flags need no download"
_ABANDONED_SECONDS = 3600  # an active download writes more often


def prepare(builder: Any) -> None:
    """Makes the record files; of several processes one does and the others wait.

    Look the builder up again afterwards: this one may not know the files.

    Raises:
      UserError: no connection, a failed download, a full disk, or files for manual download.
    """
    _require_connection(builder)
    folder = Path(os.fspath(builder.data_dir))
    try:
        with _alone(folder):
            if not builder.is_prepared():
                _remove_leftovers(folder, builder)
                _make(builder)
    except OSError as error:
        raise UserError(
            f"{builder.info.full_name} can't be prepared in {folder.parent}: {one_line(error)}; "
            "set TFDS_DATA_DIR to a writable folder with enough space"
        ) from None


def _require_connection(builder: Any) -> None:
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return  # the user downloads the files
    problem = network_check.connection_problem(builder.url_infos or {})
    if problem:
        raise UserError(f"{builder.info.full_name} could not be fetched: {problem}; {INSTEAD}")


def _make(builder: Any) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    before = _active_downloads(builder)
    if not builder.url_infos:
        tfds.disable_progress_bar()  # a few seconds of local work
    try:
        # Its messages don't belong to the program's results.
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
        # TFDS removes unfinished records, but not unfinished downloads.
        for leftover in _active_downloads(builder) - before:
            shutil.rmtree(leftover, ignore_errors=True)


def _failed(builder: Any, error: Exception) -> UserError:
    return UserError(
        f"{builder.info.full_name} could not be downloaded and prepared: {one_line(error)}; "
        f"start the same command again, or continue without it: {INSTEAD}"
    )


def one_line(error: Exception) -> str:
    """Returns the error's message as one line of at most 300 characters."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
    return shorten(text, 300)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the data set's lock and removes it afterwards, with folders that stayed empty."""
    created = [parent for parent in folder.parents if not parent.exists()]
    lock = folder.parent / f".{folder.name}.lock"
    try:
        with _locked(lock):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):  # not empty, or gone already
            for parent in created:
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


def _remove_leftovers(folder: Path, builder: Any) -> None:
    """Removes what a killed process left: TFDS prepares in `incomplete.XXXXXX_VERSION` beside."""
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in _active_downloads(builder):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.rglob("*")))
            if newest < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _active_downloads(builder: Any) -> set[Path]:
    """Returns the folders of unfinished downloads, of all data sets."""
    return set((Path(os.fspath(builder.data_dir_root)) / "downloads").rglob("*.tmp.*"))
