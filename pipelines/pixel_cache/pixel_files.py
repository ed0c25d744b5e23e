"""Pixel files on the disk: found, filled, published as a whole, and removed when outlived.

    CACHE_DIR/pixels-DEFINITION-IMAGES/pixels.u8   one row of height x width x 3 bytes an image
                                         index.npz   what is known of each: `pixel_index`
                                         lock        shared while in use, exclusive while filled
    CACHE_DIR/pixels-….part-PID-RANDOM/              one that is being filled, or was when killed

A lock is the system's and ends with its process, however that ends. So a folder of that last kind
whose lock is free has no maker any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipelines.pixel_cache import pixel_index
from pipelines.pixel_cache.pixel_index import Index
from pipelines.pixel_cache.stamps import stamp
from pipelines.sources.examples import Examples

PIXELS, INDEX, LOCK = "pixels.u8", "index.npz", "lock"
PART = ".part-"
SPARE = 0.02  # of the file system: stays free, or the run's own files would find no room
_CHUNK = 1 << 20  # bytes written at a time where others may have to come first


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """A complete folder, open. Nobody removes it before `lock` is closed."""

    path: Path
    index: Index
    pixels: io.FileIO
    lock: io.FileIO

    def close(self) -> None:
        self.pixels.close()
        self.lock.close()


def name(definition: str, stamps: np.ndarray) -> str:
    """Of the folder with these images in this order."""
    return _kind(definition) + hashlib.blake2b(stamps.tobytes(), digest_size=12).hexdigest()


def _kind(definition: str) -> str:
    """What the names of all folders of a definition begin with."""
    return f"pixels-{hashlib.blake2b(definition.encode(), digest_size=4).hexdigest()}-"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other run gives or takes names in the cache meanwhile. For what takes no time only.

    Raises:
      OSError: the folder is missing, or it is somebody else's and holds no cache.
    """
    path = folder / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # one that others fill can be read
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def open_all(folder: Path, definition: str, row_bytes: int) -> list[Kept]:
    """The complete folders of a definition; damaged ones are passed over."""
    found = []
    with contextlib.suppress(OSError):
        with _alone(folder):
            paths = _complete(folder, definition)
            locks = {path: lock for path in paths if (lock := _share(path))}
        for path, lock in locks.items():
            kept = _open(path, lock, definition, row_bytes)
            found += [kept] if kept else []
    return found


def _complete(folder: Path, definition: str) -> list[Path]:
    return sorted(p for p in folder.glob(_kind(definition) + "*") if PART not in p.name)


def _share(path: Path) -> io.FileIO | None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        lock = stack.enter_context(io.FileIO(path / LOCK))
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        stack.pop_all()
        return lock
    return None


def _open(path: Path, lock: io.FileIO, definition: str, row_bytes: int) -> Kept | None:
    """The folder, or None, its lock given back, where it does not hold what it should."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.callback(lock.close)
        pixels = stack.enter_context(io.FileIO(path / PIXELS))
        index = pixel_index.load(path / INDEX, definition)
        if index is not None and os.fstat(pixels.fileno()).st_size == len(index) * row_bytes:
            stack.pop_all()
            return Kept(path, index, pixels, lock)
    return None


class Part:
    """A folder that is being filled: its maker's alone, and no cache before it is published."""

    def __init__(self, folder: Path, name: str, count: int, row_bytes: int) -> None:
        """Makes the folder and reserves the space.

        Raises:
          OSError: it can't be written, or there is too little space.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _clear_away(folder)
        self.name, self.row_bytes = name, row_bytes
        with _alone(folder):
            beside = tempfile.mkdtemp(prefix=f"{name}{PART}{os.getpid()}-", dir=folder)
            self.path = Path(beside)
            self.lock = io.FileIO(self.path / LOCK, "x+")
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self.path.chmod(0o755)  # mkdtemp gives it to its owner alone
            self.pixels = io.FileIO(self.path / PIXELS, "x+")
            _reserve(self.pixels.fileno(), count * row_bytes)
        except BaseException:
            self.discard()
            raise

    def write(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Writes n images (uint8 [n, …]) to their rows (int [n]).

        Raises:
          OSError: the system can't take them.
        """
        for row, image in zip(rows.tolist(), images, strict=True):
            _write(self.pixels.fileno(), image, row * self.row_bytes)

    def write_all(self, images: np.ndarray, give_way: Callable[[], None]) -> None:
        """Writes all rows (uint8 [N, …]); `give_way` is called again and again, and may wait.

        Raises:
          OSError: the system can't take them.
        """
        data = images.reshape(-1)
        for start in range(0, len(data), _CHUNK):
            give_way()
            _write(self.pixels.fileno(), data[start : start + _CHUNK], start)

    def publish(self, index: Index, examples: Examples) -> Kept | None:
        """Makes a complete folder of it; that of another run which was first, instead, if any.

        Raises:
          OSError: the system can't write it.
        """
        with open(self.path / INDEX, "xb") as file:
            pixel_index.save(file, index, examples)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self.pixels.fileno())
        _sync(self.path)
        final = self.path.with_name(self.name)
        with _alone(final.parent):
            first = self._first(final, index.definition)
            if first is None:
                os.rename(self.path, final)
                self.path = final
                fcntl.flock(self.lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if first is not None:
            self.discard()
        else:
            _sync(final.parent)
        return first

    def _first(self, final: Path, definition: str) -> Kept | None:
        """The folder of that name where it is sound; where it is damaged, its name is made free."""
        lock = _share(final)
        kept = _open(final, lock, definition, self.row_bytes) if lock else None
        if kept is None and final.exists():
            os.rename(final, _outlived(final))
        return kept

    def close(self) -> None:
        self.pixels.close()
        self.lock.close()

    def discard(self) -> None:
        """Removes the folder; what has its pixels open may read on."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.close()


def _reserve(handle: int, size: int) -> None:
    """Space is taken before it is used: a full disk shows here, and not as a crash later."""
    system = os.fstatvfs(handle)
    if size > (system.f_bavail - SPARE * system.f_blocks) * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size:
        os.posix_fallocate(handle, 0, size)


def _write(handle: int, images: np.ndarray, offset: int) -> None:
    data = images.reshape(-1).data
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _sync(folder: Path) -> None:
    """Names last as well as what they stand for."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(handle)


def _outlived(path: Path) -> Path:
    """Another name for a folder that is to go, by which the next run knows it if this one can't."""
    return path.with_name(f"{path.name}{PART}{os.getpid()}-{os.urandom(4).hex()}")


def _clear_away(folder: Path) -> None:
    """Removes what runs left behind that were killed while they filled."""
    with _alone(folder):
        dead = [path for path in folder.glob(f"pixels-*{PART}*") if _free(path)]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)


def _free(path: Path) -> bool:
    """Whether no process has the folder in use."""
    try:
        with io.FileIO(path / LOCK, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # its maker came no further
        return True
    except OSError:
        return False
    return True


def remove_outlived(new: Path, index: Index) -> None:
    """Removes the folders that a new one has taken the place of.

    Such a folder is of the same definition, shares a file with the new one, is not in use, and
    holds no image that is still as it was and that the new one lacks.

    Args:
      new: the complete folder; index: of it.

    Raises:
      OSError: the cache can't be read.
    """
    files = set(pixel_index.load_places(new / INDEX)[0])
    for path in _complete(new.parent, index.definition):
        if path == new or not _is_outlived(path, index, files):
            continue
        gone = _outlived(path)
        with _alone(new.parent):
            if not _free(path):
                continue
            os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _is_outlived(path: Path, index: Index, files: set[str]) -> bool:
    old = pixel_index.load(path / INDEX, index.definition)
    if old is None:
        return False
    paths, offsets, lengths = pixel_index.load_places(path / INDEX)
    if files.isdisjoint(paths):
        return False
    still = stamp(paths, offsets, lengths)[0] == old.stamps
    return bool(np.all(index.find(old.stamps[still & (old.stamps != b"")]) >= 0))
