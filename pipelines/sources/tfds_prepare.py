"""Downloads and prepares a data set by TensorFlow Datasets, once for all processes.

A failed or interrupted run removes its unfinished files; those of a killed one the next removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from engine.core.errors import UserError
from engine.core.locks import FileLock
from engine.core.text import shorten

INSTEAD = "--data_dir=FOLDER and --flagfile=solar_cells.flags need no download"
_UNFINISHED = "*.tmp.*"  # downloads
_ABANDONED_SECONDS = 3600  # an active download writes more often
_CONNECT_SECONDS = 5
_ALL_SECONDS = 8.0  # name look-ups have no timeout of their own


def prepare(builder: Any) -> None:
    """Makes the record files; of several processes one does and the others wait.

    Look the builder up again afterwards: this one may not know the files.

    Raises:
      UserError: no connection, a failed download, a full disk, or files for manual download.
    """
    # Without a connection TFDS says nothing for most of a minute.
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and (problem := find_problem(builder.url_infos)):
        raise UserError(f"{builder.info.full_name} could not be fetched: {problem}; {INSTEAD}")
    folder = Path(os.fspath(builder.data_dir))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock") as lock:
            lock.acquire(wait=True)
            if not builder.is_prepared():
                downloads = Path(os.fspath(builder.data_dir_root)) / "downloads"
                _remove_leftovers(folder, downloads)
                with _removing_unfinished(downloads):
                    _download_and_prepare(builder)
    except OSError as error:
        raise UserError(
            f"{builder.info.full_name} can't be prepared in {folder.parent}: {one_line(error)}; "
            "set TFDS_DATA_DIR to a writable folder with enough space"
        ) from None


def find_problem(urls: Iterable[str] | None) -> str | None:
    """Returns why a host of these URLs can't be reached, or None, within 8 seconds.

    A connection is opened to each host, or to the proxy that the environment names, and closed.
    """
    hosts = {_endpoint(url): url for url in urls or () if "://" in url}
    problems: list[str | None] = []
    connect = threading.Thread(target=lambda: problems.append(_connect(hosts)), daemon=True)
    connect.start()
    connect.join(_ALL_SECONDS)
    names = ", ".join(host for host, _ in hosts)
    return problems[0] if problems else f"no connection to {names} in {_ALL_SECONDS:g} s"


def _connect(hosts: dict[tuple[str, int], str]) -> str | None:
    for host, url in hosts.items():
        try:
            socket.create_connection(host, timeout=_CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:
            return f"no connection to {host[0]} ({one_line(error)}) for {url}"
    return None


def _endpoint(url: str) -> tuple[str, int]:
    """Returns (host, port) to connect to for a URL: its own, or the proxy's if there is one."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    ports = {"https": 443, "ftp": 21}
    return parts.hostname or "", parts.port or ports.get(parts.scheme, 80)


@contextlib.contextmanager
def _removing_unfinished(downloads: Path) -> Iterator[None]:
    """Removes what a failed block leaves of downloads, unless another process downloads too.

    TFDS removes unfinished records itself, but not unfinished downloads.
    """
    earlier = set(downloads.rglob(_UNFINISHED))
    with FileLock(downloads.with_name(".downloads.lock")) as lock:
        lock.acquire(shared=True, wait=True)
        try:
            yield
        except BaseException:
            if lock.acquire():
                for unfinished in set(downloads.rglob(_UNFINISHED)) - earlier:
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _download_and_prepare(builder: Any) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    if not builder.url_infos:
        tfds.disable_progress_bar()  # a few seconds of local work
    try:
        # Its messages don't belong to the program's results.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=config)
    except UserError:
        raise
    # Builders run code of their own and fail in any way.
    except Exception as error:
        # Errors of the connection are OSErrors without a number; the disk's have one.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{builder.info.full_name} could not be downloaded and prepared: {one_line(error)}; "
            f"start the same command again, or continue without it: {INSTEAD}"
        ) from None


def one_line(error: Exception) -> str:
    """Returns the error's message as one line of at most 300 characters."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
    return shorten(text, 300)


def _remove_leftovers(folder: Path, downloads: Path) -> None:
    """Removes what a killed process left: TFDS prepares in `incomplete.XXXXXX_VERSION` beside."""
    for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in downloads.rglob(_UNFINISHED):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (leftover, *leftover.rglob("*")))
            if newest < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
