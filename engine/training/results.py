"""What is recorded: of an epoch in `history.csv`, of a phase and of the run in `result.json`."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from engine.evaluation import calibration, eval_step
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.evaluate import Evaluation, Predictions, collect_predictions
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, model_score
from engine.runs.checkpoints import TrainState
from engine.runtime import hardware
from engine.training import verdict
from engine.training.job import TrainJob
from engine.training.metrics import TrainMetrics
from engine.training.phase import PhaseTrainer


@dataclasses.dataclass(frozen=True)
class FinalEvaluation:
    """The values of `result.json`, and the saved model's predictions by split."""

    result: dict[str, Any]
    predictions: dict[str, Predictions]


def epoch_row(
    trainer: PhaseTrainer, state: TrainState, metrics: TrainMetrics, evaluation: Evaluation
) -> dict[str, Any]:
    """Returns an epoch's row of history, from its training metrics and its validation."""
    solved = {"solved": trainer.solved} if trainer.solved else {}
    return {
        **solved,
        "phase": trainer.phase.name,
        "epoch": state.epoch,
        "step": state.step,
        "train_loss": metrics.loss,
        "train_accuracy": metrics.accuracy,
        "val_loss": evaluation.loss,
        "val_accuracy": evaluation.accuracy,
        "learning_rate": trainer.rate(state.step - state.phase_start - 1),
        "images_per_second": metrics.examples / state.seconds,
        "data_wait_fraction": state.wait_seconds / state.seconds,
        "seconds": state.seconds + state.fill_seconds + state.eval_seconds,
        "resident_bytes": hardware.resident_memory(),
    }


def phase_result(trainer: PhaseTrainer, state: TrainState) -> dict[str, Any]:
    """Returns a phase's entry in `result.json`."""
    rows = [row for row in state.history if row["phase"] == trainer.phase.name]
    steps = state.step - state.phase_start
    variables = trainer.partition.variables
    result = {
        "name": trainer.phase.name,
        "epochs": state.epoch,
        "steps": steps,
        "trainable_variables": len(variables),
        "trainable_parameters": sum(math.prod(variable.shape) for variable in variables),
        "seconds": sum(row["seconds"] for row in rows),
        "images_per_second": float(np.median([row["images_per_second"] for row in rows] or [0])),
    }
    if rows and "solved" in rows[-1]:
        result["solved"] = rows[-1]["solved"]
    if hasattr(trainer.optimizer, "inner_optimizer"):
        applied = int(np.asarray(trainer.optimizer.inner_optimizer.iterations))
        result["skipped_steps"] = steps - applied
    return result


def evaluate_final_model(job: TrainJob, state: TrainState, best: BestModel) -> FinalEvaluation:
    """Puts the best weights into the model, evaluates it and fits its temperature.

    The model is evaluated as it is saved, in float32: on the validation split once more, since the
    epochs were evaluated with the trunk in its fastest precision, and on the test split.

    Returns:
      all but the times of the run.

    Raises:
      UserError: the model's predictions are non-finite.
    """
    checkpoints.restore(job.classifier.model.weights, best.weights or [], str(job.run.best))
    step = eval_step.make_eval_step(job.classifier.model)
    splits = ("validation", "test") if job.loader.test_examples else ("validation",)
    job.logger.note(f"evaluating the saved model in float32: {', '.join(splits)}")
    predictions = {
        split: collect_predictions(
            step,
            job.shutdown.check_each(job.loader.split_batches(split)),
            job.loader.classes,
            functools.partial(job.loader.example_name, split=split),
        )
        for split in splits
    }
    evaluations = {split: of_split.evaluation() for split, of_split in predictions.items()}
    rule, calibrated = _calibrate(predictions["validation"])
    best.set_rule(rule)
    result = {
        "status": "finished",
        "classes": list(job.loader.classes),
        "best": state.best,
        "final": model_score(state.history[-1]),
        **{split: _summarize(evaluation) for split, evaluation in evaluations.items()},
        "verdict": verdict.verdict(
            state.history,
            evaluations,
            dict(zip(job.loader.classes, job.loader.class_counts, strict=True)),
            str(job.run.path),
            _head_right(job, state, len(predictions["validation"])),
        ),
        "calibration": calibrated,
        "phases": state.phases,
        "spent": state.spent,
        "peak_memory_bytes": hardware.peak_memory(),
        "software": hardware.describe_software(),
        "machine": hardware.describe_machine(),
    }
    return FinalEvaluation(result, predictions)


def _head_right(job: TrainJob, state: TrainState, count: int) -> np.ndarray | None:
    """Which validation images the head alone had right, where the saved model has more trained."""
    trained = {phase.name: phase.trainable for phase in job.recipe.phases}
    if not state.best or not state.head_right or trained[state.best["phase"]] == "head":
        return None
    bits = np.frombuffer(bytes.fromhex(state.head_right), np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def _summarize(evaluation: Evaluation) -> dict[str, Any]:
    values = {name: getattr(evaluation, name) for name in ("accuracy", "loss", "count")}
    return {**values, "accuracy_interval": list(evaluation.accuracy_interval)}


def _calibrate(predictions: Predictions) -> tuple[DecisionRule, dict[str, float]]:
    """Returns the rule, with the fitted temperature where it helps, and values for `result.json`.

    The errors are without and with the fitted temperature, whether or not it is saved.
    """
    trial = calibration.try_temperature(predictions.logits, predictions.labels)
    rule = DecisionRule(trial.temperature) if trial.helps else DEFAULT_RULE
    values = {**trial._asdict(), "temperature": rule.temperature}
    return rule, {"fitted_temperature": trial.temperature, **values}
