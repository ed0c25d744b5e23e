"""Checkpoints: one file each, written whole, checked when read.

A file is a NumPy `.npz`, a zip whose members carry a CRC and which holds no objects, so that
reading one executes nothing. Variables are stored in the model's order, since Keras numbers names
by the order of building; shape and dtype are compared when they are restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.core import digests
from engine.core.conversion import convert
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory

KEEP = 2  # if the newest file is damaged, the one before it is used


@dataclasses.dataclass
class TrainState:
    """How far a run has come: the only mutable state besides the variables.

    phase: index of the current phase. epoch: its completed epochs.
    step: completed steps of the run. phase_start: the step at which the phase started.
    best: phase, epoch, val_accuracy and val_loss of the best evaluation so far.
    head_right: which validation images the best epoch of a phase that trains the head alone has
    right, one bit each, in hexadecimal; '' where there is no such phase.
    stale: epochs of this phase since it last improved; best_loss: its best validation loss.
    seconds, wait_seconds, fill_seconds, eval_seconds: of the current epoch: training, waiting for
    data (included in training), filling the feature cache, and evaluation.
    last_eval_seconds: eval_seconds of the epoch before.
    spent: the same over all completed epochs, and the seconds of the other stages: start_seconds
    until TensorFlow runs, prepare_seconds of reading images while the network is built,
    compile_seconds of trials and whatever else begins a phase, save_seconds of all checkpoints
    before this, final_seconds of the last evaluation.
    total_seconds: of the run, over all its processes.
    history: one row for each epoch. phases: one entry for each completed phase.
    data: `DataLoader.identity` of the images that it is trained on.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    phase_start: int = 0
    best: dict[str, Any] | None = None
    head_right: str = ""
    stale: int = 0
    best_loss: float | None = None
    seconds: float = 0.0
    wait_seconds: float = 0.0
    fill_seconds: float = 0.0
    eval_seconds: float = 0.0
    last_eval_seconds: float = 0.0
    spent: dict[str, float] = dataclasses.field(default_factory=dict)
    total_seconds: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    phases: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    def end_epoch(self) -> None:
        """Adds the epoch's times to those of the run, and resets them."""
        self.last_eval_seconds = self.eval_seconds
        for name in ("seconds", "wait_seconds", "fill_seconds", "eval_seconds"):
            self.spend(name, getattr(self, name))
            setattr(self, name, 0.0)

    def end_phase(self, result: dict[str, Any]) -> None:
        """Records the phase's result and moves on to the next phase."""
        self.phases.append(result)
        self.phase += 1
        self.epoch, self.stale, self.best_loss = 0, 0, None
        self.phase_start = self.step

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds that the block takes to those of the run."""
        started = time.perf_counter()
        yield
        self.spend(what, time.perf_counter() - started)

    def spend(self, what: str, seconds: float) -> None:
        self.spent[what] = self.spent.get(what, 0.0) + seconds


def save(run: RunDirectory, state: TrainState, variables: dict[str, Sequence[Any]]) -> Path:
    """Writes a checkpoint, keeps the one before it and deletes all others.

    Those of later steps too: the run is not there yet, so `load` has skipped them as damaged.
    """
    path = run.checkpoints / f"step_{state.step:09d}_phase_{state.phase:03d}.npz"
    digests.write(path, pack(variables, dataclasses.asdict(state)), run.path)
    older = [other for other in _newest_first(run) if other.name < path.name]
    keep = {path, *older[: KEEP - 1]}
    for other in _newest_first(run):
        if other not in keep:
            other.unlink(missing_ok=True)
    return path


def load(
    run: RunDirectory, log: Callable[[str], None] = lambda line: None
) -> tuple[TrainState, dict[str, list[np.ndarray]]]:
    """Reads the newest intact checkpoint, or returns a fresh state where there is none.

    Args:
      log: takes a line for each damaged one.

    Raises:
      UserError: there are checkpoints, and none can be read.
    """
    paths = _newest_first(run)
    for path in paths:
        try:
            arrays, values = unpack(path, run.path)
            return convert(values, TrainState, "state"), arrays
        except UserError as error:
            log(f"{error}; trying the checkpoint before it")
    if paths:
        raise UserError(
            f"{run.checkpoints}: none of the {len(paths)} checkpoints can be read; "
            "start over with --overwrite"
        )
    return TrainState(), {}


def require_same_dataset(run: RunDirectory, state: TrainState, identity: dict[str, str]) -> None:
    """Records the data that a run starts with; a resumed run reads its examples by number.

    Raises:
      UserError: the run started with other data.
    """
    changed = [split for split, before in state.data.items() if before != identity.get(split)]
    if changed:
        then, now = (
            ", ".join(f"{split} {of.get(split)}" for split in changed)
            for of in (state.data, identity)
        )
        raise UserError(
            f"--run_dir={run.path}: the dataset changed since this run started: {then}; now {now}; "
            "restore it or start over with --overwrite"
        )
    state.data = identity


def _newest_first(run: RunDirectory) -> list[Path]:
    return sorted(run.checkpoints.glob("step_*.npz"), reverse=True)


def pack(variables: dict[str, Sequence[Any]], values: dict[str, Any]) -> bytes:
    """Returns the bytes of an `.npz` with groups of variables and a JSON value."""
    arrays = {
        f"{group}/{index:05d}": np.asarray(variable)
        for group, members in variables.items()
        for index, variable in enumerate(members)
    }
    # The names too: a zip with a damaged directory may have lost members unnoticed.
    text = np.frombuffer(json.dumps([list(arrays), values]).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, values=text, **arrays)
    return buffer.getvalue()


def unpack(
    path: Path, folder: Path | None = None
) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """Reads the groups of arrays and the JSON value of a file made by `pack`.

    Args:
      folder: of its digest; by default that of the file.

    Raises:
      UserError: the file is missing, truncated or damaged.
    """
    try:
        data = digests.read(path, folder)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            _require_stored(file.zip, len(data))
            names, values = json.loads(file["values"].tobytes())
            if len(set(names)) < len(names):
                raise ValueError("it names an array twice")
            groups: dict[str, list[np.ndarray]] = {}
            for name in names:
                groups.setdefault(name.split("/")[0], []).append(file[name])
            return groups, values
    except UserError:
        raise
    except Exception as error:  # readers raise almost anything for a damaged zip
        raise UserError(f"{path}: not a readable checkpoint ({error})") from None


def _require_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Protects against members that unpack to more than the file: `pack` does not compress.

    Raises:
      ValueError: the members claim more bytes than there are.
    """
    members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")


def restore(variables: Sequence[Any], arrays: Sequence[np.ndarray], source: str) -> None:
    """Assigns arrays to variables.

    Args:
      source: where the arrays come from, for the message.

    Raises:
      UserError: their number, a shape or a dtype differs.
    """
    if [_signature(variable) for variable in variables] != [_signature(array) for array in arrays]:
        raise UserError(
            f"{source}: the checkpoint's {len(arrays)} arrays don't fit this model's "
            f"{len(variables)} variables; the package or the recipe has changed since"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _signature(array: Any) -> tuple[tuple[int, ...], str]:
    """Returns shape and dtype; Keras has the dtype as text, NumPy and TensorFlow as an object."""
    return tuple(array.shape), getattr(array.dtype, "name", array.dtype)
