"""The directory of a run: its files, and who may write to it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core import digests, files
from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.recipe import Recipe, differences, from_json, to_json
from engine.core.text import program
from engine.optim import phase_options


class _PathInside:
    """A property: the path of a file or folder inside the run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunDirectory, _: type) -> Path:
        return run.path / self.name


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths inside a run."""

    path: Path

    recipe = _PathInside("recipe.json")
    plan = _PathInside("plan.json")
    history = _PathInside("history.csv")
    plot = _PathInside("history.png")
    result = _PathInside("result.json")
    bad_images = _PathInside("bad_images.csv")
    missing_classes = _PathInside("missing_classes.csv")
    nan_events = _PathInside("nan_events.json")
    nan_batch = _PathInside("nan_batch.csv")
    checkpoints = _PathInside("checkpoints")
    best = _PathInside("best.npz")
    report = _PathInside("report")
    lock = _PathInside("lock")
    train_events = _PathInside("train")
    validation_events = _PathInside("validation")
    final_events = _PathInside("final")
    profile = _PathInside("plugins")

    @property
    def event_folders(self) -> tuple[Path, ...]:
        """Where TensorBoard's files are. Its name of a run is the path of such a folder."""
        return (self.train_events, self.validation_events, self.final_events)

    def event_files(self) -> list[Path]:
        """TensorBoard's files."""
        return [
            file for folder in self.event_folders for file in folder.glob("events.out.tfevents.*")
        ]

    def read_recipe(self) -> Recipe:
        """Reads the recipe of this run.

        Raises:
          UserError: there is no run here, or its recipe can't be read.
        """
        if not self.recipe.is_file():
            raise UserError(
                f"--run_dir={self.path}: holds no run; name a directory that {program('train')} "
                "wrote"
            )
        data = digests.read(self.recipe)
        try:
            recipe = from_json(Recipe, data)
            phase_options.check_recipe(recipe)
            return recipe
        except (UserError, RecursionError) as error:
            raise UserError(
                f"{self.recipe}: no recipe of this version of Unfreeze ({error}); "
                "name another --run_dir="
            ) from None

    def read_result(self) -> dict[str, Any]:
        """Reads `result.json`; returns an empty dict where there is none yet.

        Raises:
          UserError: it is damaged.
        """
        try:
            data = digests.read(self.result)
        except OSError:
            return {}
        try:
            values = parse_json(data)
        except UserError:
            return {}
        return values if isinstance(values, dict) else {}

    def started(self) -> bool:
        """Whether anything was trained."""
        return self.best.exists() or any(self.checkpoints.glob("step_*"))

    def finished(self) -> bool:
        return self.read_result().get("status") == "finished"


def claim_directory(
    run: RunDirectory, recipe: Recipe, overwrite: bool, plan: bytes | None = None
) -> None:
    """Prepares the directory for a recipe: for a new run, or to resume the same run.

    Args:
      plan: the `plan.json` that a new run follows; it measures and decides itself by default.

    Raises:
      UserError: it holds a finished run, a run of another recipe, or other files.
    """
    require_own_directory(run)
    for path in (*files.leftovers(run.path), *files.leftovers(run.checkpoints)):
        with suppress(OSError):
            path.unlink()
    # A run that failed before its first step has left its own plans.
    if overwrite or not run.recipe.exists() or not run.started():
        _clear(run)
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        digests.write(run.recipe, to_json(recipe).encode())
        if plan:
            digests.write(run.plan, plan)
        return
    require_same_recipe(run, recipe)


def require_same_recipe(run: RunDirectory, recipe: Recipe) -> None:
    """Requires an unfinished run of the same recipe.

    Raises:
      UserError: it is finished, or has another recipe.
    """
    other = f"name another --run_dir= (such as {_free_name(run.path)}) or add --overwrite"
    if fields := differences(run.read_recipe(), recipe):
        differing = ", ".join(fields)
        raise UserError(
            f"--run_dir={run.path}: holds a run with another recipe, in {differing}; {other}"
        )
    if run.finished():
        raise UserError(f"--run_dir={run.path}: holds this run, finished; {other}")


def require_own_directory(run: RunDirectory) -> None:
    """Protects a folder with other files, even with --overwrite.

    Raises:
      UserError: the folder holds neither a run nor the remains of one killed at its start.
    """
    own = {run.checkpoints.name, run.lock.name, digests.NAME}
    names = _names(run.path) - {path.name for path in files.leftovers(run.path, "*.json")}
    # Checkpoints without a recipe belong to something else: a run writes its recipe first.
    if not (names <= own and not _names(run.checkpoints)) and not _holds_run(run):
        raise UserError(
            f"--run_dir={run.path}: is not empty and holds no run; name another --run_dir="
        )


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _holds_run(run: RunDirectory) -> bool:
    """Whether there is a recipe, of any version or damaged."""
    with suppress(OSError, UserError, TypeError):
        if {"backbone", "phases"} <= set(parse_json(run.recipe.read_bytes())):
            return True
    return run.recipe.is_file() and digests.covers(run.recipe)


def _clear(run: RunDirectory) -> None:
    """Deletes the files of a run, and no others.

    The recipe stays until it is replaced, since it identifies a run. The best model goes first: as
    long as it is there, a run that is killed in the middle of this would be resumed.

    Raises:
      UserError: a file can't be deleted; it would become part of the next run.
    """
    aside = files.temporary_path(run.best)
    try:
        with suppress(FileNotFoundError):
            os.replace(run.best, aside)
        for folder in (run.checkpoints, run.profile, run.report):
            if folder.exists():
                shutil.rmtree(folder)
        reports = (run.plot, run.bad_images, run.missing_classes, run.nan_events, run.nan_batch)
        values = (run.plan, run.history, run.result)
        for path in (*values, *reports, *run.event_files(), run.best):
            path.unlink(missing_ok=True)
        aside.unlink(missing_ok=True)
        for folder in run.event_folders:
            with suppress(OSError):  # it is not there, or holds files of others
                folder.rmdir()
    except OSError as error:
        with suppress(OSError):
            os.replace(aside, run.best)
        raise UserError(
            f"--run_dir={run.path}: {error.filename or run.path} can't be removed "
            f"({error.strerror or error}); name another --run_dir="
        ) from None


def _free_name(path: Path) -> Path:
    return next(p for n in range(2, 10_000) if not (p := Path(f"{path}_{n}")).exists())
