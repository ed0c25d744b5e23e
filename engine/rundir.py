"""The files of a run, and how they are written: beside, then renamed."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.specs import Recipe, UserError, from_json, to_json


@dataclasses.dataclass(frozen=True)
class RunDir:
    """The paths inside a run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def history(self) -> Path:
        return self.path / "history.csv"

    @property
    def plot(self) -> Path:
        return self.path / "history.png"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def bad_images(self) -> Path:
        return self.path / "bad_images.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best.npz"

    @property
    def events(self) -> Path:
        return self.path / "events"

    def read_recipe(self) -> Recipe:
        """The recipe of this run.

        Raises:
          UserError: there is no run here, or its recipe can't be read.
        """
        if not self.recipe.is_file():
            raise UserError(
                f"--run_dir={self.path}: holds no run; name a directory that bin/train wrote"
            )
        return from_json(Recipe, self.recipe.read_text())

    def read_result(self) -> dict[str, Any]:
        """What `result.json` says, or an empty dict where the run has not come so far."""
        try:
            return json.loads(self.result.read_text())
        except (OSError, ValueError):
            return {}

    def finished(self) -> bool:
        return self.read_result().get("status") == "finished"


def claim(run: RunDir, recipe: Recipe, overwrite: bool) -> None:
    """Makes the directory this recipe's: new, or the same run to go on with.

    Raises:
      UserError: it holds a finished run, another recipe's, or something that is no run.
    """
    if overwrite:
        _clear(run)
    if not run.recipe.exists():
        if run.path.exists() and any(run.path.iterdir()) and not _only_own(run):
            raise UserError(
                f"--run_dir={run.path}: is not empty and holds no run; name another --run_dir="
            )
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write(run.recipe, to_json(recipe).encode())
        return
    other = f"name another --run_dir= (such as {_free_name(run.path)}) or add --overwrite"
    if run.read_recipe() != recipe:
        raise UserError(f"--run_dir={run.path}: holds a run with another recipe; {other}")
    if run.finished():
        raise UserError(f"--run_dir={run.path}: holds this run, finished; {other}")


def _only_own(run: RunDir) -> bool:
    """Whether what lies there is only what a run killed at its very start leaves behind."""
    own = {"checkpoints", "lock", f"{run.recipe.name}.part"}
    return {entry.name for entry in run.path.iterdir()} <= own


def _clear(run: RunDir) -> None:
    """Removes the files of a run, and nothing else that may lie there; the recipe goes last."""
    for path in (run.checkpoints, run.events):
        shutil.rmtree(path, ignore_errors=True)
    for path in (run.history, run.plot, run.result, run.bad_images, run.best, run.recipe):
        path.unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    return next(
        p for n in range(2, 10_000) if not (p := path.with_name(f"{path.name}_{n}")).exists()
    )


@contextmanager
def lock(run: RunDir) -> Iterator[None]:
    """Holds the run for this process; the lock of a process that died is free.

    Raises:
      UserError: another process holds it, or the directory can't be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        file = open(run.path / "lock", "a+")  # noqa: SIM115 (held until the block ends)
    except OSError as error:
        raise UserError(
            f"--run_dir={run.path}: can't be written ({error.strerror}); name another --run_dir="
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(
                f"--run_dir={run.path}: process {file.read().strip() or 'unknown'} is at work "
                "there; wait for it or name another --run_dir="
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def write(path: Path, data: bytes) -> None:
    """Writes the whole file or leaves the old one: beside, to the disk, then renamed."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue().encode())
