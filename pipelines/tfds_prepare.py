"""Has TensorFlow Datasets download and prepare a data set: once, whole, or with a clear refusal.

Without a connection TFDS says nothing for the better part of a minute, so the hosts are tried
before it starts. What a run that was killed left behind is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from engine.specs import UserError

CONNECT_SECONDS = 5
INSTEAD = "--data_dir=FOLDER and --flagfile=solar_cells.flags need no download"


def prepare(builder: Any) -> None:
    """Makes the record files, unless they are there; safe against several processes at once.

    Raises:
      UserError: no connection, a failed download, a full disk, files that must be fetched by hand.
    """
    if builder.is_prepared():
        return
    _require_connection(builder)
    folder = Path(os.fspath(builder.data_dir))
    try:
        with _alone(folder):
            if not builder.is_prepared():
                _remove_remains(folder)
                _download(builder)
    except OSError as error:
        raise UserError(
            f"{builder.info.full_name} can't be prepared in {folder.parent}: {_text(error)}; "
            "set TFDS_DATA_DIR to a folder with room that may be written to"
        ) from None


def _download(builder: Any) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except OSError as error:
        # requests' errors are OSErrors without a number; the disk's have one.
        if error.errno is not None:
            raise
        raise _failed(builder, error) from None
    # Builders run code of their own and fail in any way; TFDS has removed what it had begun.
    except Exception as error:
        raise _failed(builder, error) from None


def _failed(builder: Any, error: Exception) -> UserError:
    return UserError(
        f"{builder.info.full_name} could not be downloaded and prepared: {_text(error)}; "
        f"start the same command again, or go on without it: {INSTEAD}"
    )


def _text(error: Exception) -> str:
    text = " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
    return text if len(text) <= 300 else text[:299] + "…"


def _require_connection(builder: Any) -> None:
    """UserError where a host that the data set comes from can't be reached within 5 seconds."""
    urls = list(builder.url_infos or {})
    hosts = {_endpoint(url): url for url in reversed(urls) if "://" in url}
    if not hosts:
        return
    with ThreadPoolExecutor(len(hosts)) as pool:
        errors = list(pool.map(_connection_error, hosts))
    for (endpoint, url), error in zip(hosts.items(), errors, strict=True):
        if error:
            raise UserError(
                f"{builder.info.full_name} could not be fetched: no connection to {endpoint[0]} "
                f"({error}) for {url}; {INSTEAD}"
            )


def _endpoint(url: str) -> tuple[str, int]:
    """(host, port) to connect to for a URL: its own, or the proxy's where the environment says."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    ports = {"https": 443, "ftp": 21}
    return parts.hostname or "", parts.port or ports.get(parts.scheme, 80)


def _connection_error(endpoint: tuple[str, int]) -> str | None:
    try:
        socket.create_connection(endpoint, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the data set's lock; the system releases it when a process dies."""
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / f".{folder.name}.lock"
    try:
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    finally:
        if not folder.exists():
            # Folders that were made for this and stayed empty; one that is not is left.
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for parent in made:
                    parent.rmdir()


def _remove_remains(folder: Path) -> None:
    """Removes what a killed process left: TFDS prepares in `incomplete.XXXXXX_VERSION` beside."""
    for remains in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(remains, ignore_errors=True)
