"""Pixel caches on the disk: opening, writing, publishing as a whole, removing obsolete ones.

    CACHE_DIR/pixels-DEFINITION-IMAGES/pixels.u8   one row of height x width x 3 bytes an image
                                         index.npz   what is known of each: `CacheIndex`
                                         lock        shared while in use, exclusive while written
    CACHE_DIR/pixels-….part-PID-RANDOM/              being written, or left by a killed run

A lock ends with its process, however that ends. A folder of the last kind whose lock is free was
therefore left by a process that no longer runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.core.files import sync_folder
from engine.core.locks import FileLock
from pipelines.pixel_cache import index as index_files
from pipelines.pixel_cache.cache import PixelCache
from pipelines.pixel_cache.index import CacheIndex, stamp_images

PIXELS, INDEX, LOCK = "pixels.u8", "index.npz", "lock"
PART = ".part-"
RESERVED = 0.02  # of the file system stays free, or the run's own files would find no space
_CHUNK_BYTES = 1 << 20  # written between two calls of `give_way`

Shape = tuple[int, int, int]


class _FolderLock(FileLock):
    """A lock on a folder of the cache; also ends when nothing refers to it any more."""

    descriptor = -1

    def __init__(self, folder: Path, flags: int = os.O_RDWR | os.O_CREAT) -> None:
        super().__init__(folder / LOCK, flags)

    def close(self) -> None:
        if self.descriptor >= 0:
            super().close()
        self.descriptor = -1

    __del__ = close


def open_all(folder: Path, definition: str, shape: Shape) -> list[PixelCache]:
    """Opens the complete caches of a definition; damaged ones are skipped."""
    caches = []
    with contextlib.suppress(OSError):
        with _names_locked(folder):
            paths = _complete_folders(folder, definition)
            locks = {path: lock for path in paths if (lock := _lock_shared(path))}
        for path, lock in locks.items():
            if cache := _open(path, lock, definition, shape):
                caches.append(cache)
    return caches


class PixelWriter:
    """Writes a new cache, in a folder that no other run opens before it is published.

    Attributes:
      path: the folder.
      file: of the pixels.
      lock: held exclusively until it is published.
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
        _remove_abandoned(folder)
        self.definition, self.shape, self.row_bytes = definition, shape, int(np.prod(shape))
        self.name = _prefix(definition) + _digest(stamps.tobytes(), 12)
        with _names_locked(folder):
            prefix = f"{self.name}{PART}{os.getpid()}-"
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            self.lock = _FolderLock(self.path)
            self.lock.acquire()
        try:
            self.path.chmod(0o755)  # mkdtemp gives it to its owner alone
            self.file = io.FileIO(self.path / PIXELS, "x+")
            _reserve(self.file.fileno(), len(stamps) * self.row_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Writes n images (uint8 [n, ...]) to their rows (int [n]).

        Raises:
          OSError: the system can't store them.
        """
        for row, image in zip(rows.tolist(), images, strict=True):
            _write(self.file.fileno(), image, row * self.row_bytes)

    def write_all(self, images: np.ndarray, give_way: Callable[[], None]) -> None:
        """Writes all rows (uint8 [N, ...]) in chunks, each after a call of `give_way`.

        Raises:
          OSError: the system can't store them.
        """
        data = images.reshape(-1)
        for start in range(0, len(data), _CHUNK_BYTES):
            give_way()
            _write(self.file.fileno(), data[start : start + _CHUNK_BYTES], start)

    def publish(self, index: CacheIndex) -> PixelCache | None:
        """Makes it a complete cache, unless another run was first: returns that run's cache.

        Raises:
          OSError: the system can't write it.
        """
        with open(self.path / INDEX, "xb") as file:
            index.save(file)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self.file.fileno())
        sync_folder(self.path)
        final = self.path.with_name(self.name)
        with _names_locked(final.parent):
            first = self._already_published(final)
            if first is None:
                os.rename(self.path, final)
                self.path = final
                self.lock.acquire(shared=True)
        if first is not None:
            self.discard()
        else:
            sync_folder(final.parent)
        return first

    def _already_published(self, final: Path) -> PixelCache | None:
        """Opens the cache of that name; where it is damaged, makes its name free."""
        lock = _lock_shared(final)
        cache = _open(final, lock, self.definition, self.shape) if lock else None
        if cache is None and final.exists():
            os.rename(final, _abandoned_name(final))
        return cache

    def close(self) -> None:
        self.file.close()
        self.lock.close()

    def discard(self) -> None:
        """Removes the folder; a process that has its pixels open can still read them."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.close()


def remove_obsolete(new: Path, index: CacheIndex) -> None:
    """Removes the caches that a new one replaces.

    Such a cache is of the same definition, shares a file with the new one, is not in use, and holds
    no image that is unchanged and that the new one lacks.

    Args:
      new: the folder of the new cache; index: of it.

    Raises:
      OSError: the folder can't be written.
    """
    files = set(index.paths())
    for path in _complete_folders(new.parent, index.definition):
        if path == new or not _is_obsolete(path, index, files):
            continue
        abandoned = _abandoned_name(path)
        with _names_locked(new.parent):
            if not _is_free(path):
                continue
            os.rename(path, abandoned)
        shutil.rmtree(abandoned, ignore_errors=True)


def _is_obsolete(path: Path, index: CacheIndex, files: set[str]) -> bool:
    old = index_files.load(path / INDEX, index.definition)
    if old is None or files.isdisjoint(old.paths()):
        return False
    stamps = old.facts["stamp"]
    unchanged = stamp_images(old.paths(), old.facts["offset"], old.facts["length"])[0] == stamps
    return bool(np.all(index.find(stamps[unchanged & (stamps != b"")]) >= 0))


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


def _lock_shared(path: Path) -> _FolderLock | None:
    with contextlib.suppress(OSError):
        lock = _FolderLock(path, os.O_RDONLY)
        return lock if lock.acquire(shared=True) else None
    return None


def _open(path: Path, lock: FileLock, definition: str, shape: Shape) -> PixelCache | None:
    """Opens a cache; None, and its lock released, where its contents are incomplete."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.callback(lock.close)
        file = stack.enter_context(io.FileIO(path / PIXELS))
        index = index_files.load(path / INDEX, definition)
        size = os.fstat(file.fileno()).st_size
        if index is not None and size == len(index) * int(np.prod(shape)):
            stack.pop_all()
            return PixelCache(shape, index, file=file, lock=lock)
    return None


def _prefix(definition: str) -> str:
    """Returns how the names of all caches of a definition begin."""
    return f"pixels-{_digest(definition.encode(), 4)}-"


def _digest(data: bytes, size: int) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def _complete_folders(folder: Path, definition: str) -> list[Path]:
    return sorted(p for p in folder.glob(_prefix(definition) + "*") if PART not in p.name)


def _abandoned_name(path: Path) -> Path:
    """Returns a name for a folder to be removed, by the next run if this one can't."""
    return path.with_name(f"{path.name}{PART}{os.getpid()}-{os.urandom(4).hex()}")


def _remove_abandoned(folder: Path) -> None:
    """Removes what runs left that were killed while they wrote."""
    with _names_locked(folder):
        abandoned = [path for path in folder.glob(f"pixels-*{PART}*") if _is_free(path)]
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True)


def _is_free(path: Path) -> bool:
    """Whether no process uses the folder."""
    try:
        with _FolderLock(path, os.O_RDWR) as lock:
            return lock.acquire()
    except FileNotFoundError:  # its process was killed before it created the lock
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
