"""The best model of a run, `best.npz`: its weights, its classes and its decision rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core import digests
from engine.core.errors import UserError
from engine.core.text import program
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory


class BestModel:
    """The best weights of a run so far, and whether its file has them.

    Attributes:
      weights: the model's arrays; None before the first epoch ends.
      rule: how its logits become decisions, once the temperature is fitted.
    """

    def __init__(self, run: RunDirectory, classes: Sequence[str]) -> None:
        self.run, self.classes = run, list(classes)
        self.weights: list[np.ndarray] | None = None
        self.rule: DecisionRule | None = None
        self._saved = False

    def resume(self, state: TrainState) -> None:
        """Reads the file of a run that resumes.

        It may be newer than the checkpoint, and counts: the same epoch repeated is no better, and
        after a NaN recovery another one has to be better than that.

        Raises:
          UserError: the file is missing or damaged.
        """
        self.weights, self._saved = None, self.run.best.is_file()
        if self._saved:
            self.weights, values = load_best_model(self.run)
            state.best = model_score(values)
        elif state.best:
            raise UserError(
                f"{self.run.best}: missing, the best model so far of the run in "
                f"{self.run.checkpoints}; restore it, or start over with --overwrite"
            )

    def replace(self, weights: Sequence[Any]) -> None:
        """Copies the weights of a better model."""
        self.weights, self._saved = [variable.numpy() for variable in weights], False

    def set_rule(self, rule: DecisionRule) -> None:
        self.rule, self._saved = rule, False

    def save(self, state: TrainState) -> None:
        """Writes the file unless it is up to date.

        Raises:
          OSError: it can't be written.
        """
        if self.weights is None or (self._saved and self.run.best.exists()):
            return
        values = {"classes": self.classes, "data": state.data, **(state.best or {})}
        if self.rule:
            values["rule"] = dataclasses.asdict(self.rule)
        digests.write(self.run.best, checkpoints.pack({"model": self.weights}, values))
        self._saved = True


def rank(score: dict[str, Any]) -> tuple[float, float]:
    """Orders epochs: by validation accuracy, then by lower validation loss.

    A non-finite loss ranks below all finite ones.
    """
    if not math.isfinite(score["val_loss"]):
        return -1.0, 0.0
    return score["val_accuracy"], -score["val_loss"]


def model_score(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row of history by which models are compared."""
    return {key: row[key] for key in ("phase", "epoch", "val_accuracy", "val_loss")}


def load_best_model(run: RunDirectory) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Reads the best model's arrays, and its classes and score.

    Raises:
      UserError: the run has no model yet, or its file can't be read.
    """
    if not run.best.is_file():
        raise UserError(
            f"--run_dir={run.path}: holds no model yet; run {program('train')} until an epoch ends"
        )
    arrays, values = checkpoints.unpack(run.best)
    classes = values.get("classes") if isinstance(values, dict) else None
    names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if "model" not in arrays or not names:
        raise UserError(
            f"{run.best}: holds no weights with the names of their classes; "
            "train again with --overwrite"
        )
    return arrays["model"], values


def decision_rule_of(run: RunDirectory, values: dict[str, Any]) -> DecisionRule:
    """The decision rule among the values of a model's file.

    Raises:
      UserError: it is invalid, or for other classes.
    """
    try:
        return decision_rule.parse_rule(values.get("rule"), values["classes"])
    except UserError as error:
        raise UserError(f"{run.best}: {error}; train again with --overwrite") from None


def save_decision_rule(run: RunDirectory, rule: DecisionRule) -> None:
    """Stores a new decision rule with the best model.

    Raises:
      UserError: there is no model.
      OSError: the file can't be written; the old one is unchanged.
    """
    arrays, values = load_best_model(run)
    values["rule"] = dataclasses.asdict(rule)
    digests.write(run.best, checkpoints.pack({"model": arrays}, values))
