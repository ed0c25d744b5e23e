"""After a phase: every opened variable has moved, and no closed one has."""

from __future__ import annotations

import keras
import numpy as np

from engine.core.recipe import Phase
from engine.models.freezing import ModelPartition


class FreezeCheck:
    """Remembers all variables at the start of a phase, or where a resumed one goes on."""

    def __init__(self, model: keras.Model, partition: ModelPartition, phase: Phase) -> None:
        self.phase = phase
        self.variables = list(model.weights)
        self.before = [variable.numpy() for variable in self.variables]
        self.opened = {id(variable) for variable in partition.variables}
        self.free = _statistics(model, partition) if phase.batch_norm == "train" else set()

    def check(self, trained: bool) -> list[str]:
        """Warnings, one for all opened variables that did not move.

        Raises:
          RuntimeError: a closed variable moved.
        """
        moved = [
            not np.array_equal(old, new.numpy(), equal_nan=True)
            for old, new in zip(self.before, self.variables, strict=True)
        ]
        pairs = list(zip(self.variables, moved, strict=True))
        escaped = [v.path for v, m in pairs if m and id(v) not in self.opened | self.free]
        if escaped:
            raise RuntimeError(
                f"phase {self.phase.name!r}: closed variables moved: {', '.join(escaped)}"
            )
        still = [v.path for v, m in pairs if not m and id(v) in self.opened]
        if not (trained and still):
            return []
        return [f"phase {self.phase.name!r}: open variables did not move: {', '.join(still)}"]


def _statistics(model: keras.Model, partition: ModelPartition) -> set[int]:
    """The running statistics of the opened BatchNormalization layers."""
    return {
        id(variable)
        for layer in model.layers
        if layer.name in partition.open_layers
        and isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.non_trainable_variables
    }
