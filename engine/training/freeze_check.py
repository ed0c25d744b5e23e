"""Checks after a phase that every trainable variable has moved, and no frozen one has."""

from __future__ import annotations

import keras
import numpy as np

from engine.core.recipe import Phase
from engine.models.freezing import ModelPartition


class FreezeCheck:
    """Copies all variables at the start of a phase, or where it resumes, and compares later."""

    def __init__(self, model: keras.Model, partition: ModelPartition, phase: Phase) -> None:
        self.phase = phase
        self._variables = list(model.weights)
        self._before = [variable.numpy() for variable in self._variables]
        self._trainable = {id(variable) for variable in partition.variables}
        self._may_move = set(self._trainable)
        if phase.batch_norm == "train":
            self._may_move |= {id(variable) for variable in partition.statistics(phase)}

    def check(self, trained: bool) -> list[str]:
        """Returns warnings, one for all trainable variables that did not move.

        Args:
          trained: whether there were any steps.

        Raises:
          RuntimeError: a frozen variable moved.
        """
        moved = [
            (variable, not np.array_equal(before, variable.numpy(), equal_nan=True))
            for before, variable in zip(self._before, self._variables, strict=True)
        ]
        changed = [v.path for v, moves in moved if moves and id(v) not in self._may_move]
        if changed:
            raise RuntimeError(
                f"phase {self.phase.name!r}: frozen variables moved: {', '.join(changed)}"
            )
        still = [v.path for v, moves in moved if not moves and id(v) in self._trainable]
        if not (trained and still):
            return []
        return [f"phase {self.phase.name!r}: trainable variables did not move: {', '.join(still)}"]
