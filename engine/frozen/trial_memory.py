"""Precision trials of earlier runs, remembered for a machine, its software, network and shape."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorflow as tf

from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError
from engine.core.files import write_json
from engine.core.recipe import Phase, Recipe
from engine.core.version import version
from engine.frozen.precision import ComputeMode, PrecisionTrial
from engine.runtime import hardware

# Fields of the recipe that decide what is computed in a trial, and how fast.
RECIPE_FIELDS = (
    *("backbone", "weights", "init_from", "image_size", "batch_size", "hidden_units", "dropout"),
    "gradient_accumulation_steps",
)


@dataclasses.dataclass(frozen=True)
class TrialMemory:
    """Trials in files of the cache folder; None in its place remembers nothing."""

    folder: Path | None
    recipe: Recipe
    classes: int = 0

    def path(self, phase: Phase, part: str, modes: Sequence[ComputeMode]) -> Path:
        """Returns the file of these trials; its name is a digest of all that they depend on."""
        assert self.folder
        cpu = hardware.describe_cpu(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
        gpus = tf.config.list_physical_devices("GPU")
        values = {
            "machine": [*cpu, *(tf.config.experimental.get_device_details(gpu) for gpu in gpus)],
            "threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "software": {**hardware.describe_software(), "unfreeze": version()},
            "network": {name: getattr(self.recipe, name) for name in RECIPE_FIELDS},
            "classes": self.classes,
            "part": [part, phase.trainable, phase.batch_norm],
            "modes": list(map(str, modes)),
        }
        key = json.dumps(values, sort_keys=True, default=str).encode()
        return self.folder / "precisions" / f"{hashlib.sha256(key).hexdigest()[:32]}.json"

    def read(
        self, phase: Phase, part: str, modes: Sequence[ComputeMode]
    ) -> tuple[PrecisionTrial, ...]:
        """Returns the trials of these modes; none where there are none, or they can't be read."""
        if self.folder is None or len(modes) < 2:
            return ()
        with suppress(OSError, UserError, RecursionError, KeyError, TypeError):
            values: Any = parse_json(self.path(phase, part, modes).read_bytes())["trials"]
            trials = convert(values, tuple[PrecisionTrial, ...], "trials")
            valid = all(trial.images_per_second > 0 for trial in trials)
            return trials if valid and [trial.mode for trial in trials] == list(modes) else ()
        return ()

    def write(self, phase: Phase, part: str, trials: Sequence[PrecisionTrial]) -> None:
        """Remembers trials, where the folder can be written."""
        if self.folder is None or len(trials) < 2:
            return
        path = self.path(phase, part, [trial.mode for trial in trials])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"trials": [dataclasses.asdict(trial) for trial in trials]})
