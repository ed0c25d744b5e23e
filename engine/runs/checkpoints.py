"""Checkpoints: one file each, written whole, checked when read.

A file is a NumPy `.npz`, a zip whose members carry a CRC and which holds no objects, so that
reading one executes nothing. Variables stand in it by their place in the model, since Keras numbers
names by the order of building; shape and type are compared when they are put back.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.conversion import convert
from engine.core.errors import UserError
from engine.core.files import write
from engine.runs.directory import RunDirectory

KEEP = 2  # where the newest file is broken, the one before it is used


@dataclasses.dataclass
class TrainState:
    """How far a run has come: the only mutable state beside the variables.

    phase: index of the phase that is being trained. epoch: whole epochs of it that are done.
    step: steps of the run that are done. phase_start: the step that the phase began at.
    best: phase, epoch, val_accuracy and val_loss of the best evaluation so far.
    stale: epochs of this phase since it last improved; best_loss its best validation loss.
    seconds, wait_seconds, fill_seconds, eval_seconds: of the epoch that is going on: training,
    waiting for data (a part of it), working out what is kept of the trunk, and evaluation.
    spent: the same over the epochs that are done, and save_seconds, of all checkpoints before this.
    total_seconds: of the run, over all its processes.
    history: one row for each epoch. phases: one entry for each phase that is done.
    data: `DataLoader.identity` of the images that it is trained on.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    phase_start: int = 0
    best: dict[str, Any] | None = None
    stale: int = 0
    best_loss: float | None = None
    seconds: float = 0.0
    wait_seconds: float = 0.0
    fill_seconds: float = 0.0
    eval_seconds: float = 0.0
    spent: dict[str, float] = dataclasses.field(default_factory=dict)
    total_seconds: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    phases: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    def close_epoch(self) -> None:
        """Adds the epoch's times to those of the run, and begins the next at nought."""
        for name in ("seconds", "wait_seconds", "fill_seconds", "eval_seconds"):
            self.spend(name, getattr(self, name))
            setattr(self, name, 0.0)

    def spend(self, what: str, seconds: float) -> None:
        self.spent[what] = self.spent.get(what, 0.0) + seconds


def save(run: RunDirectory, progress: TrainState, variables: dict[str, Sequence[Any]]) -> Path:
    """Writes a checkpoint and keeps the one before it; all others go.

    Those of later steps too: the run is not there yet, so they are ones that `load` passed over.
    """
    path = run.checkpoints / f"step_{progress.step:09d}_phase_{progress.phase:03d}.npz"
    write(path, pack(variables, dataclasses.asdict(progress)))
    older = [other for other in _newest_first(run) if other.name < path.name]
    kept = {path, *older[: KEEP - 1]}
    for other in run.checkpoints.glob("step_*"):  # those that a killed process left half-made too
        if other not in kept:
            other.unlink(missing_ok=True)
    return path


def load(run: RunDirectory) -> tuple[TrainState, dict[str, list[np.ndarray]]]:
    """The newest checkpoint that is whole, or a fresh Progress where there is none.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    paths = _newest_first(run)
    for path in paths:
        try:
            arrays, values = unpack(path)
            return convert(values, TrainState, "progress"), arrays
        except (UserError, RecursionError):
            continue
    if paths:
        raise UserError(
            f"{run.checkpoints}: none of the {len(paths)} checkpoints there can be read; "
            "begin anew with --overwrite"
        )
    return TrainState(), {}


def require_same_dataset(run: RunDirectory, progress: TrainState, identity: dict[str, str]) -> None:
    """Notes them where a run begins. Steps read them by number, so one more would shift all.

    Raises:
      UserError: the run that goes on began with others.
    """
    changed = [part for part, was in progress.data.items() if was != identity.get(part)]
    if changed:
        then, now = (
            ", ".join(f"{part} {of.get(part)}" for part in changed)
            for of in (progress.data, identity)
        )
        raise UserError(
            f"--run_dir={run.path}: began with other images: {then}; now {now}; "
            "put them back as they were, or begin anew with --overwrite"
        )
    progress.data = identity


def _newest_first(run: RunDirectory) -> list[Path]:
    return sorted(run.checkpoints.glob("step_*.npz"), reverse=True)


def pack(variables: dict[str, Sequence[Any]], values: dict[str, Any]) -> bytes:
    """Groups of variables and a JSON value -> the bytes of an `.npz`."""
    arrays = {
        f"{group}/{place:05d}": np.asarray(variable)
        for group, members in variables.items()
        for place, variable in enumerate(members)
    }
    # The names too, since a zip whose directory is damaged may have lost members unnoticed.
    text = np.frombuffer(json.dumps([list(arrays), values]).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, values=text, **arrays)
    return buffer.getvalue()


def unpack(path: Path) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """The groups of arrays and the JSON value of a file that `pack` made.

    Raises:
      UserError: the file is not there, cut short or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_claims(file.zip, path.stat().st_size)
            names, values = json.loads(file["values"].tobytes())
            if len(set(names)) < len(names):
                raise ValueError("it names an array twice")
            groups: dict[str, list[np.ndarray]] = {}
            for name in names:
                groups.setdefault(name.split("/")[0], []).append(file[name])
            return groups, values
    except Exception as error:  # there is little that a damaged zip can't make its readers raise
        raise UserError(f"{path}: no checkpoint that can be read ({error})") from None


def _check_claims(archive: zipfile.ZipFile, size: int) -> None:
    """Nothing is unpacked that is larger than the file: what `pack` makes is not compressed.

    Raises:
      ValueError: the members claim more bytes than there are.
    """
    members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")


def restore(variables: Sequence[Any], arrays: Sequence[np.ndarray], what: str) -> None:
    """Puts arrays back into variables.

    Raises:
      UserError: their number, a shape or a type differs.
    """
    if [_form(variable) for variable in variables] != [_form(array) for array in arrays]:
        raise UserError(
            f"{what}: the checkpoint's {len(arrays)} arrays are of another model than this one's "
            f"{len(variables)} variables; the package or the recipe has changed since"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _form(array: Any) -> tuple[tuple[int, ...], str]:
    """Shape and type; Keras names a type, NumPy and TensorFlow give an object that has a name."""
    return tuple(array.shape), getattr(array.dtype, "name", array.dtype)
