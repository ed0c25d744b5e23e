"""The file of predictions while it grows, and how an interrupted one resumes.

Rows go to FILE.part. Beside it, FILE.part.json holds the request: what the rows belong to, and the
list of images as it was at the start; FILE.part.progress says how many rows are safe on the disk.
At the end FILE.part becomes FILE, and FILE.json says how it was made.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError
from engine.core.files import sync_folder, write, write_json
from engine.core.locks import FileLock
from engine.inference.predictions import Prediction
from engine.inference.predictions_format import format_of

SAVE_SECONDS = 10.0  # rows of at most so long are predicted again after a kill or a power failure
MAX_UNREADABLE_SHOWN = 10
_DIFFERENCES = {
    "version": "another version of Unfreeze",
    "model": "another model",
    "inputs": "other files, folders or addresses",
    "folder": "relative names from another folder",
}


@dataclasses.dataclass(frozen=True)
class PredictionsRequest:
    """What to predict, and how; a file of a different request is not resumed.

    model: identifies the model.
    inputs: the arguments of the command line, paths absolute.
    options: the flags that rows depend on.
    paths: the images that the inputs stand for.
    program: the fields of the `ComputeMode` in use.
    overwrite: whether to replace a file of that name.
    folder: the folder that names are relative to; '' if that does not matter.
    """

    model: Mapping[str, Any]
    inputs: tuple[str, ...]
    options: Mapping[str, Any]
    paths: tuple[str, ...] = ()
    program: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overwrite: bool = False
    folder: str = ""
    version: int = 4

    def difference(self, other: PredictionsRequest) -> str | None:
        """Describes what in the other request makes other rows; None if nothing does."""
        for name, text in _DIFFERENCES.items():
            if getattr(self, name) != getattr(other, name):
                return text
        for name, value in self.options.items():
            if (theirs := other.options.get(name)) != value:
                return f"no --{name}" if theirs is None else f"--{name}={theirs}"
        return None


@dataclasses.dataclass
class PredictionCounts:
    """How far a file of predictions is.

    rows: number of rows. unreadable: how many of them have no prediction.
    first_unreadable: (path, problem) of the first of those.
    size: of the header and the rows, in bytes.
    """

    rows: int = 0
    unreadable: int = 0
    first_unreadable: tuple[tuple[str, str], ...] = ()
    size: int = 0

    def add(self, predictions: Sequence[Prediction], size: int) -> None:
        problems = [(one.path, one.problem) for one in predictions if one.problem]
        self.rows += len(predictions)
        self.unreadable += len(problems)
        self.first_unreadable = (*self.first_unreadable, *problems)[:MAX_UNREADABLE_SHOWN]
        self.size += size


class _Paths:
    """The files that belong to a file of predictions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.request = path.with_name(f"{path.name}.part.json")
        self.progress = path.with_name(f"{path.name}.part.progress")
        self.info = path.with_name(f"{path.name}.json")


def find_interrupted(
    path: Path, request: PredictionsRequest, overwrite: bool
) -> PredictionsRequest | None:
    """Returns the request that was interrupted, or None if there is nothing to resume.

    Raises:
      UserError: the file exists, or its part belongs to another request.
    """
    paths = _Paths(path)
    if path.is_dir():
        raise UserError(f"--out={path}: is a folder; name a file in it, such as {path}/answers.csv")
    if path.exists() and not path.is_file():
        raise UserError(f"--out={path}: is not a regular file; name another, such as answers.csv")
    if overwrite:
        return None
    has_part = paths.part.exists()
    saved = _read(paths.request, PredictionsRequest) if has_part else None
    for existing in (path, paths.info):
        replaceable = saved and (saved.overwrite or existing == paths.info)
        if os.path.lexists(existing) and not replaceable:
            raise UserError(
                f"--out={path}: {existing} exists; name another file, or add --overwrite"
            )
    start_over = "add --overwrite to start over, or name another file"
    if saved is None:
        if has_part and paths.part.stat().st_size:
            raise UserError(f"--out={path}: {paths.part.name} has no request file; {start_over}")
        return None
    if difference := request.difference(saved):
        raise UserError(
            f"--out={path}: {paths.part.name} was started with {difference}; continue with the "
            f"same, {start_over}"
        )
    return saved


def _read(path: Path, kind: Any) -> Any:
    """Returns the dataclass in a file; None where there is none, or it is damaged."""
    try:
        return convert(parse_json(path.read_bytes()), kind, path.name)
    except (OSError, UserError):
        return None


class PredictionsFile:
    """Takes rows in the order of the images; a context manager. Complete after `finish`.

    Attributes:
      request: whose rows these are.
      counts: of the rows in the file.
    """

    def __init__(self, path: Path, request: PredictionsRequest, resume: bool) -> None:
        """
        Args:
          path: of the complete file.
          request: what `find_interrupted` returned, or a new one.
          resume: whether an existing part belongs to this request; otherwise `begin` empties it.

        Raises:
          UserError: the file can't be written, or another process writes it.
        """
        self.paths, self.request = _Paths(path), request
        self.format, self.top_k = format_of(path.name), request.options["top_k"]
        self.counts, self._begun = PredictionCounts(), resume
        self._saved = time.monotonic()
        with self._write_errors():
            self._file = self._open_locked()
            if resume:
                self._restore()

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._begun:
            with suppress(OSError):  # then those after the last progress are predicted again
                self._save_progress()
        elif not os.fstat(self._file).st_size:  # failed before the first row
            self.paths.part.unlink(missing_ok=True)
        os.close(self._file)

    def begin(self, program: Mapping[str, Any]) -> None:
        """Writes the request file, with the compute mode of the rows that follow.

        Raises:
          UserError: it can't be written.
        """
        self.request = dataclasses.replace(self.request, program=program)
        with self._write_errors():
            self.paths.progress.unlink(missing_ok=True)  # before the request changes
            text = json.dumps(dataclasses.asdict(self.request))  # a million paths: no indents
            write(self.paths.request, text.encode())
            self._restore()
        self._begun = True

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Writes the next rows, those of whole batches: a file resumes after what was added.

        The last bit of a prediction can depend on what else is in its batch.

        Raises:
          UserError: they can't be written; earlier rows are saved.
        """
        rows = self.format.rows(predictions, self.top_k)
        with self._write_errors():
            self._write(rows)
            self.counts.add(predictions, len(rows))
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._save_progress()

    def finish(self) -> None:
        """Renames the part to the file, and writes FILE.json.

        Raises:
          UserError: it can't be written, or the file exists now; the part is saved.
        """
        keys = ("model", "inputs", "options", "program")
        info = {key: getattr(self.request, key) for key in keys}
        counts = {"images": self.counts.rows, "unreadable": self.counts.unreadable}
        if os.path.lexists(self.paths.path) and not self.request.overwrite:
            raise UserError(
                f"--out={self.paths.path}: was created while {self.paths.part.name} was written; "
                "move it away, then run the same command again"
            )
        with self._write_errors():
            os.fsync(self._file)
            write_json(self.paths.info, info | counts)
            os.replace(self.paths.part, self.paths.path)
            self._begun = False
            self.paths.request.unlink()
            self.paths.progress.unlink(missing_ok=True)
            sync_folder(self.paths.path.parent)

    def _open_locked(self) -> int:
        """Opens the part for this process alone."""
        lock = FileLock(self.paths.part)
        if os.fstat(lock.descriptor).st_uid != os.geteuid():
            lock.close()
            raise OSError(errno.EPERM, f"{self.paths.part.name} belongs to another user")
        if lock.acquire() and lock.is_current():  # else its last holder has just finished
            return lock.descriptor
        lock.close()
        raise UserError(
            f"--out={self.paths.path}: another process is writing it; wait for it, or name another "
            "file"
        )

    def _restore(self) -> None:
        """Cuts the part off after the rows that are known to be complete."""
        saved = _read(self.paths.progress, PredictionCounts)
        if saved and saved.size <= os.fstat(self._file).st_size:
            self.counts = saved
        os.ftruncate(self._file, self.counts.size)
        os.lseek(self._file, self.counts.size, os.SEEK_SET)
        if not self.counts.size:
            header = self.format.header(self.top_k)
            self._write(header)
            self.counts.size = len(header)

    def _save_progress(self) -> None:
        os.ftruncate(self._file, self.counts.size)  # after a write that failed halfway
        os.fsync(self._file)
        write_json(self.paths.progress, dataclasses.asdict(self.counts))
        self._saved = time.monotonic()

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"--out={self.paths.path}: can't be written ({error.strerror or error})"
            if not self.counts.rows:
                raise UserError(f"{message}; name another file") from None
            raise UserError(
                f"{message}; {self.counts.rows:,} rows are in {self.paths.part.name}; "
                "free some space, then run the same command again"
            ) from None
