"""The file of predictions while it grows, and how an interrupted one resumes.

Rows go to FILE.part. Beside it, FILE.part.json holds the request: what the rows belong to, and the
list of images as it was at the start. At the end FILE.part becomes FILE, and FILE.json says how it
was made.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError
from engine.core.files import sync_folder, write, write_json
from engine.core.locks import FileLock
from engine.inference.predict import NON_FINITE, Prediction
from engine.inference.predictions_format import Row, format_of

SYNC_SECONDS = 10.0  # at most this much is lost when the power fails
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
    version: int = 3

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
    """Number of rows, how many have no prediction, and the first of those."""

    rows: int = 0
    unreadable: int = 0
    first_unreadable: tuple[Row, ...] = ()

    def add(self, row: Row) -> None:
        self.rows += 1
        if row.problem:
            self.unreadable += 1
            self.first_unreadable = (*self.first_unreadable, row)[:MAX_UNREADABLE_SHOWN]


class _Paths:
    """The files that belong to a file of predictions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.request = path.with_name(f"{path.name}.part.json")
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
    saved = _read_request(paths) if has_part else None
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


def _read_request(paths: _Paths) -> PredictionsRequest | None:
    try:
        return convert(parse_json(paths.request.read_text("utf-8")), PredictionsRequest, "request")
    except (OSError, UnicodeDecodeError, UserError):
        return None


class PredictionsFile:
    """Takes rows in the order of the images; a context manager. Complete after `finish`.

    Attributes:
      request: whose rows these are.
      counts: of the rows in the file.
    """

    def __init__(
        self,
        path: Path,
        request: PredictionsRequest,
        batch_size: int,
        group_size: int,
        resume: bool,
    ) -> None:
        """
        Args:
          path: of the complete file.
          request: what `find_interrupted` returned, or a new one.
          batch_size: a batch ends after so many readable images.
          group_size: and after so many images, readable or not.
          resume: whether an existing part belongs to this request; otherwise `begin` empties it.

        Raises:
          UserError: the file can't be written, or another process writes it.
        """
        self.paths, self.request = _Paths(path), request
        self.batch_size, self.group_size = batch_size, group_size
        self.format, self.top_k = format_of(path.name), request.options["top_k"]
        self.counts = PredictionCounts()
        self._synced = time.monotonic()
        try:
            self._file = self._open_locked()
            if resume:
                self._truncate(self._find_resume_point())
        except OSError as error:
            raise self._write_error(error) from None

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        if not os.fstat(self._file).st_size:  # failed before the first row
            self.paths.part.unlink(missing_ok=True)
        os.close(self._file)

    def begin(self, program: Mapping[str, Any]) -> None:
        """Writes the request file, with the compute mode of the rows that follow.

        Raises:
          UserError: it can't be written.
        """
        self.request = dataclasses.replace(self.request, program=program)
        try:
            os.ftruncate(self._file, 0)
            os.fsync(self._file)  # before the request changes, so that it never has old rows
            content = json.dumps(dataclasses.asdict(self.request)) + "\n"
            write(self.paths.request, content.encode())
            self._truncate(0)
        except OSError as error:
            raise self._write_error(error) from None

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Writes the next rows.

        Raises:
          UserError: they can't be written; earlier rows are saved.
        """
        try:
            self._write(self.format.rows(predictions, self.top_k))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise self._write_error(error) from None
        for prediction in predictions:
            self.counts.add(Row(prediction.path, prediction.problem or ""))

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
        try:
            os.fsync(self._file)
            write_json(self.paths.info, info | counts)
            os.replace(self.paths.part, self.paths.path)
            self.paths.request.unlink()
            sync_folder(self.paths.path.parent)
        except OSError as error:
            raise self._write_error(error) from None

    def _open_locked(self) -> int:
        """Opens the part for this process alone."""
        lock = FileLock(self.paths.part)
        if lock.acquire() and lock.is_current():  # else its last holder has just finished
            return lock.descriptor
        lock.close()
        raise UserError(
            f"--out={self.paths.path}: another process is writing it; wait for it, or name another "
            "file"
        )

    def _find_resume_point(self) -> int:
        """Returns where to truncate the part, in bytes, and sets the counts of what stays.

        This is after the last complete batch, because the last bit of a prediction can depend on
        what else is in its batch. A row must name the image whose turn it is, so nothing that a
        crash left behind is taken for a row.
        """
        header, counts, in_batch = self.format.header(self.top_k), PredictionCounts(), 0
        with open(self.paths.part, "rb") as file:
            if file.read(len(header)) != header:
                return 0
            end = position = len(header)
            for path, line in zip(self.request.paths, self.format.lines(file), strict=False):
                try:
                    row = self.format.read(line)
                except ValueError:
                    break
                if row.path != self.format.name(path):
                    break
                counts.add(Row(path, row.problem))
                in_batch += row.problem in ("", NON_FINITE)  # the image was readable
                position += len(line)
                if in_batch in (0, self.batch_size) or counts.rows % self.group_size == 0:
                    end, in_batch, self.counts = position, 0, dataclasses.replace(counts)
            if counts.rows == len(self.request.paths):
                end, self.counts = position, counts
        return end

    def _truncate(self, end: int) -> None:
        """Cuts the part off after `end` bytes, where the next row goes."""
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        if not end:
            self._write(self.format.header(self.top_k))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _write_error(self, error: OSError) -> UserError:
        message = f"--out={self.paths.path}: can't be written ({error.strerror or error})"
        if not self.counts.rows:
            return UserError(f"{message}; name another file")
        return UserError(
            f"{message}; {self.counts.rows:,} rows are in {self.paths.part.name}; free some space, "
            "then run the same command again"
        )
