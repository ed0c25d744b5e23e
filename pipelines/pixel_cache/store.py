"""Pixel caches on the disk: opening, writing, publishing as a whole, removing obsolete ones.

    CACHE_DIR/pixels-DEFINITION-IMAGES/pixels.u8   one row of height x width x 3 bytes an image;
                                                   locked: shared in use, exclusive while written
                                         index.npz   what is known of each: `CacheIndex`
    CACHE_DIR/pixels-….part-PID-RANDOM/              being written, or left by a killed run

A lock ends with its process, however that ends. A folder of the last kind whose lock is free was
therefore left by a process that no longer runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.core.files import open_atomic, sync_folder
from engine.core.locks import FileLock
from pipelines.pixel_cache import index as index_files
from pipelines.pixel_cache.cache import INDEX, PIXELS, PixelCache, PixelFile
from pipelines.pixel_cache.index import CacheIndex, stamp_images

PART = ".part-"
RESERVED = 0.02  # of the file system stays free, or the run's own files would find no space
_CHUNK_BYTES = 1 << 20  # written between two calls of `give_way`

Shape = tuple[int, int, int]


def open_all(folder: Path, definition: str, shape: Shape) -> list[PixelCache]:
    """Opens the complete caches of a definition; damaged ones are skipped."""
    caches = []
    with contextlib.suppress(OSError):
        with _names_locked(folder):
            paths = complete_folders(folder, _prefix(definition))
            files = {path: file for path in paths if (file := _open_shared(path / PIXELS))}
        for path, file in files.items():
            index = index_files.load(path / INDEX, definition)
            size = os.fstat(file.descriptor).st_size
            if index is not None and size == len(index) * int(np.prod(shape)):
                caches.append(PixelCache(shape, index, file=file))
    return caches


class PixelWriter:
    """Writes a new cache, in a folder that no other run opens before it is published.

    Attributes:
      path: the folder.
      file: of the pixels; locked exclusively until it is published.
    """

    def __init__(self, folder: Path, definition: str, stamps: np.ndarray, shape: Shape) -> None:
        """Creates the folder and reserves the space.

        Args:
          folder: of all caches.
          stamps: STAMP [N], of the images in the order of their rows.

        Raises:
          OSError: the folder can't be written, or there is too little space.
        """
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        self.row_bytes = int(np.prod(shape))
        self.name = _prefix(definition) + _digest(stamps.tobytes(), 12)
        with _names_locked(folder):
            prefix = f"{self.name}{PART}{os.getpid()}-"
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            self.file = PixelFile(self.path / PIXELS)
            self.file.acquire()
        try:
            self.path.chmod(0o755)  # mkdtemp gives it to its owner alone
            _reserve(self.file.descriptor, len(stamps) * self.row_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Writes n images (uint8 [n, ...]) to their rows (int [n]).

        Raises:
          OSError: the system can't store them.
        """
        for row, image in zip(rows.tolist(), images, strict=True):
            _write(self.file.descriptor, image, row * self.row_bytes)

    def write_all(self, images: np.ndarray, give_way: Callable[[], None]) -> None:
        """Writes all rows (uint8 [N, ...]) in chunks, each after a call of `give_way`.

        Raises:
          OSError: the system can't store them.
        """
        data = images.reshape(-1)
        for start in range(0, len(data), _CHUNK_BYTES):
            give_way()
            _write(self.file.descriptor, data[start : start + _CHUNK_BYTES], start)

    def publish(self, index: CacheIndex) -> None:
        """Makes it a complete cache, and removes those that it replaces.

        Raises:
          OSError: the system can't write it.
        """
        with open(self.path / INDEX, "xb") as file:
            index.save(file)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self.file.descriptor)
        sync_folder(self.path)
        final = self.path.with_name(self.name)
        with _names_locked(final.parent):
            # Damaged, or of a run that did the same at the same time and has its file open.
            replaced = _set_aside(final) if final.exists() else None
            os.rename(self.path, final)
            self.path, self.file.path = final, final / PIXELS
            self.file.acquire(shared=True)
        sync_folder(final.parent)
        if replaced:
            shutil.rmtree(replaced, ignore_errors=True)
        with contextlib.suppress(OSError):
            _remove_obsolete(final, index)

    def discard(self) -> None:
        """Removes the folder; a process that has its pixels open can still read them."""
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_obsolete(new: Path, index: CacheIndex) -> None:
    """Removes the caches that a new one replaces.

    Args:
      new: the folder of the new cache; index: of it.

    Raises:
      OSError: the folder can't be written.
    """
    for path in complete_folders(new.parent, _prefix(index.definition)):
        if path != new and is_obsolete(path, index):
            remove(path)


def remove(path: Path) -> bool:
    """Removes a cache unless a process uses it; returns whether it did.

    Raises:
      OSError: the folder can't be written.
    """
    with _names_locked(path.parent):
        abandoned = _set_aside(path) if _is_free(path) else None
    if abandoned:
        shutil.rmtree(abandoned, ignore_errors=True)
    return abandoned is not None


def is_obsolete(path: Path, new: CacheIndex) -> bool:
    """Whether a cache shares a file with a new one and has no unchanged image that that lacks."""
    old = index_files.load(path / INDEX, new.definition)
    if old is None or set(new.paths()).isdisjoint(old.paths()):
        return False
    stamps = old.facts["stamp"]
    unchanged = stamp_images(old.paths(), old.facts["offset"], old.facts["length"])[0] == stamps
    return bool(np.all(new.find_stamps(stamps[unchanged & (stamps != b"")]) >= 0))


def save_index(cache: PixelCache) -> None:
    """Replaces the index of a complete cache, unless the cache was replaced meanwhile.

    Raises:
      OSError: it can't be written.
    """
    assert cache.file
    path = cache.file.path.with_name(INDEX)
    with _names_locked(path.parents[1]):
        if cache.file.is_current():
            with open_atomic(path) as file:
                cache.index.save(file)


@contextlib.contextmanager
def _names_locked(folder: Path) -> Iterator[None]:
    """Keeps other runs from creating or renaming caches; only for work that takes no time.

    Raises:
      OSError: the folder is missing, or belongs to another user and holds no cache.
    """
    path = folder / ".lock"
    try:
        lock = FileLock(path)
    except OSError:
        lock = FileLock(path, os.O_RDONLY)  # a cache that others write can be read
    with lock:
        lock.acquire(wait=True)
        yield


def _open_shared(path: Path) -> PixelFile | None:
    with contextlib.suppress(OSError):
        file = PixelFile(path, os.O_RDONLY)
        return file if file.acquire(shared=True) else None
    return None


def _prefix(definition: str) -> str:
    """Returns how the names of all caches of a definition begin."""
    return f"pixels-{_digest(definition.encode(), 4)}-"


def _digest(data: bytes, size: int) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def complete_folders(folder: Path, prefix: str = "pixels-") -> list[Path]:
    return sorted(path for path in folder.glob(f"{prefix}*") if PART not in path.name)


def _set_aside(path: Path) -> Path:
    """Renames a folder that is to be removed, by the next run if this one can't."""
    abandoned = path.with_name(f"{path.name}{PART}{os.getpid()}-{os.urandom(4).hex()}")
    os.rename(path, abandoned)
    return abandoned


def remove_abandoned(folder: Path) -> None:
    """Removes what runs left that were killed while they wrote.

    Raises:
      OSError: the folder can't be written.
    """
    with _names_locked(folder):
        abandoned = [path for path in folder.glob(f"pixels-*{PART}*") if _is_free(path)]
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True)


def _is_free(path: Path) -> bool:
    """Whether no process uses the folder."""
    try:
        with PixelFile(path / PIXELS, os.O_RDWR) as file:
            return file.acquire()
    except FileNotFoundError:  # its process was killed before it created the file
        return True
    except OSError:
        return False


def _reserve(descriptor: int, size: int) -> None:
    """Allocates the space, so that a full disk shows now and not as a crash later."""
    system = os.fstatvfs(descriptor)
    if size > (system.f_bavail - RESERVED * system.f_blocks) * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size:
        os.posix_fallocate(descriptor, 0, size)


def _write(descriptor: int, images: np.ndarray, offset: int) -> None:
    data = images.reshape(-1).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
