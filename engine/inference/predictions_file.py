"""The file of answers while it grows, and how one that was interrupted goes on.

FILE.part takes the rows; beside it FILE.part.json says what they belong to and lists the places
that are answered, as they were when it was begun. At the end FILE.part becomes FILE, and what it
was made with stays as FILE.json.
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
from engine.inference.predict import NO_NUMBER, Prediction
from engine.inference.predictions_format import Row, of_path

SYNC_SECONDS = 10.0  # what is lost at most when the power fails
SHOWN = 10  # names of images that could not be read
_DIFFERENCES = {
    "version": "another version of Unfreeze",
    "model": "another model",
    "words": "other files, folders or addresses",
    "folder": "names that count from another folder",
}


@dataclasses.dataclass(frozen=True)
class PredictionsRequest:
    """What is to be answered, and by what: a part of another order is not gone on with.

    model: what tells it from others. words: those of the command line, paths absolute. folder: from
    which the places are named, or nothing where that does not matter. options: the flags that rows
    depend on. places: what the words mean. program: the fields of the `Program` in use.
    replaces: whether a file of that name is to be overwritten.
    """

    model: Mapping[str, Any]
    words: tuple[str, ...]
    options: Mapping[str, Any]
    places: tuple[str, ...] = ()
    program: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    replaces: bool = False
    folder: str = ""
    version: int = 2

    def difference(self, other: PredictionsRequest) -> str | None:
        """What the other one has that makes other rows, in a few words."""
        for name, words in _DIFFERENCES.items():
            if getattr(self, name) != getattr(other, name):
                return words
        for name, mine in self.options.items():
            if (its := other.options.get(name)) != mine:
                return f"no --{name}" if its is None else f"--{name}={its}"
        return None


@dataclasses.dataclass
class PredictionCounts:
    """How many rows there are, how many of them without an answer, and the first of those."""

    rows: int = 0
    unread: int = 0
    first: tuple[Row, ...] = ()

    def add(self, row: Row) -> None:
        self.rows += 1
        if row.problem:
            self.unread += 1
            self.first = (*self.first, row)[:SHOWN]


class Names:
    """The paths of a file of answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.order = path.with_name(f"{path.name}.part.json")
        self.made = path.with_name(f"{path.name}.json")


def begun(path: Path, order: PredictionsRequest, overwrite: bool) -> PredictionsRequest | None:
    """The order that was interrupted, where there is one to go on with.

    Raises:
      UserError: the file is there already, or a part of it that belongs to something else.
    """
    names = Names(path)
    if path.is_dir():
        raise UserError(f"--out={path}: is a folder; name a file in it, such as {path}/answers.csv")
    if path.exists() and not path.is_file():
        raise UserError(f"--out={path}: is no regular file; name another, such as answers.csv")
    if overwrite:
        return None
    part = names.part.exists()
    found = _read(names) if part else None
    for taken in (path, names.made):
        ours = part and found and (found.replaces or taken == names.made)
        if os.path.lexists(taken) and not ours:
            raise UserError(f"--out={path}: {taken} exists; name another file, or add --overwrite")
    anew = "add --overwrite to begin anew, or name another file"
    if found is None:
        if part and names.part.stat().st_size:
            raise UserError(f"--out={path}: nothing says what {names.part.name} is of; {anew}")
        return None
    if difference := order.difference(found):
        raise UserError(
            f"--out={path}: {names.part.name} was begun with {difference}; go on with the same, "
            f"{anew}"
        )
    return found


def _read(names: Names) -> PredictionsRequest | None:
    try:
        return convert(parse_json(names.order.read_text("utf-8")), PredictionsRequest, "order")
    except (OSError, UnicodeDecodeError, UserError):
        return None


class PredictionsFile:
    """Takes rows in the order of the places. Use it as a context; it is whole after `finish`.

    tally: of the rows that are there.
    """

    def __init__(
        self, path: Path, order: PredictionsRequest, batch_size: int, stretch: int, going_on: bool
    ) -> None:
        """
        Args:
          batch_size, stretch: a batch ends with so many images that could be read, and after each
            so many places.
          going_on: whether a part that is there is one of this order; else nothing of it stays
            when this one begins.

        Raises:
          UserError: the place can't be written, or another process writes there.
        """
        self.names, self.order = Names(path), order
        self.batch_size, self.stretch = batch_size, stretch
        self.format, self.top = of_path(path.name), order.options["top_k"]
        self.tally = PredictionCounts()
        self._synced = time.monotonic()
        try:
            self._file = self._held()
            if going_on:
                self._cut(self._take_up())
        except OSError as error:
            raise self._unwritable(error) from None

    def __enter__(self) -> PredictionsFile:
        return self

    def __exit__(self, *_: Any) -> None:
        if not os.fstat(self._file).st_size:  # it failed before it began
            self.names.part.unlink(missing_ok=True)
        os.close(self._file)

    def begin(self, program: Mapping[str, Any]) -> None:
        """Writes down what the rows are of that follow, and in which program they are made.

        Raises:
          UserError: it can't be written.
        """
        self.order = dataclasses.replace(self.order, program=program)
        try:
            os.ftruncate(self._file, 0)
            os.fsync(self._file)  # before the order changes, so that no old row stands under it
            write(self.names.order, (json.dumps(dataclasses.asdict(self.order)) + "\n").encode())
            self._cut(0)
        except OSError as error:
            raise self._unwritable(error) from None

    def add(self, answers: Sequence[Prediction]) -> None:
        """Writes the next rows.

        Raises:
          UserError: they can't be written; what was before them is there.
        """
        try:
            self._write(self.format.rows(answers, self.top))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise self._unwritable(error) from None
        for answer in answers:
            self.tally.add(Row(answer.path, answer.problem or ""))

    def finish(self) -> None:
        """Makes the part the file, and says beside it what it was made with.

        Raises:
          UserError: it can't be written, or something has come to lie there; the part is there.
        """
        about = {key: getattr(self.order, key) for key in ("model", "words", "options", "program")}
        counts = {"images": self.tally.rows, "unreadable": self.tally.unread}
        if os.path.lexists(self.names.path) and not self.order.replaces:
            raise UserError(
                f"--out={self.names.path}: came to be while {self.names.part.name} was written; "
                "move it away, then start the same command again"
            )
        try:
            os.fsync(self._file)
            write_json(self.names.made, about | counts)
            os.replace(self.names.part, self.names.path)
            self.names.order.unlink()
            sync_folder(self.names.path.parent)
        except OSError as error:
            raise self._unwritable(error) from None

    def _held(self) -> int:
        """The part, opened for this process alone."""
        lock = FileLock(self.names.part)
        if lock.acquire() and lock.is_current():  # else its last holder has just finished
            return lock.descriptor
        lock.close()
        raise UserError(
            f"--out={self.names.path}: another process is at work there; wait for it, or name "
            "another file"
        )

    def _take_up(self) -> int:
        """Where the part is cut off, in bytes; the tally is of what comes before.

        That is after the last batch that has ended: what comes out of a batch may depend, in the
        last bit, on what else is in it. A row is taken for one if it names the place whose turn it
        is, so nothing that a crash left behind passes for one.
        """
        head, tally, sound = self.format.head(self.top), PredictionCounts(), 0
        with open(self.names.part, "rb") as file:
            if file.read(len(head)) != head:
                return 0
            end = at = len(head)
            for place, line in zip(self.order.places, self.format.lines(file), strict=False):
                try:
                    row = self.format.read(line)
                except ValueError:
                    break
                if row.path != self.format.name(place):
                    break
                tally.add(Row(place, row.problem))
                sound += row.problem in ("", NO_NUMBER)  # what could be read was in a batch
                at += len(line)
                if sound in (0, self.batch_size) or tally.rows % self.stretch == 0:
                    end, sound, self.tally = at, 0, dataclasses.replace(tally)
            if tally.rows == len(self.order.places):
                end, self.tally = at, tally
        return end

    def _cut(self, end: int) -> None:
        """To `end` bytes, where the next row is to stand."""
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)
        if not end:
            self._write(self.format.head(self.top))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _unwritable(self, error: OSError) -> UserError:
        what, rows = f"--out={self.names.path}: can't be written", self.tally.rows
        reason = error.strerror or str(error)
        if not rows:
            return UserError(f"{what} ({reason}); name another file")
        return UserError(
            f"{what} ({reason}); {rows:,} rows are in {self.names.part.name}; make room, then "
            "start the same command again"
        )
