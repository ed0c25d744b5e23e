"""After the last phase: the best model is evaluated, and its temperature fitted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from engine.core.errors import UserError
from engine.evaluation import calibration
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions, collect_predictions
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, model_score
from engine.runs.checkpoints import TrainState
from engine.runtime.hardware import describe_machine, describe_software, peak_memory
from engine.training.state import RunClock, TrainJob


@dataclasses.dataclass(frozen=True)
class FinalEvaluation:
    """The values of `result.json`, and the saved model's predictions by split."""

    result: dict[str, Any]
    predictions: dict[str, Predictions]


def evaluate_final_model(
    job: TrainJob, state: TrainState, eval_step: Callable, clock: RunClock, best: BestModel
) -> FinalEvaluation:
    """Puts the best weights into the model, evaluates it and fits its temperature.

    The model is evaluated as it is saved, in float32: on the validation split once more, since the
    epochs were evaluated with the trunk in its fastest precision, and on the test split.

    Raises:
      UserError: nothing was trained, or the model's predictions are non-finite.
    """
    if not state.history:
        raise UserError("no phase has an epoch to train; give a phase epochs=1 or more")
    checkpoints.restore(job.classifier.model.weights, best.weights or [], str(job.run.best))
    result: dict[str, Any] = {
        "status": "finished",
        "classes": list(job.loader.classes),
        "best": state.best,
        "final": model_score(state.history[-1]),
    }
    predictions = _predict_splits(job, eval_step)
    for split, of_split in predictions.items():
        metrics = of_split.evaluation()
        result[split] = {name: getattr(metrics, name) for name in ("accuracy", "loss", "count")}
    if "validation" in predictions:
        rule, result["calibration"] = _calibrate(predictions["validation"])
        best.set_rule(rule)
    clock.record_save(state)
    result |= {
        "phases": state.phases,
        "spent": state.spent,
        "seconds_to_first_step": clock.first_step,
        "seconds_total": state.total_seconds,
        "peak_memory_bytes": peak_memory(),
        "software": describe_software(),
        "machine": describe_machine(),
    }
    return FinalEvaluation(result, predictions)


def _predict_splits(job: TrainJob, eval_step: Callable) -> dict[str, Predictions]:
    loader = job.loader
    counts = {"validation": loader.validation_examples, "test": loader.test_examples}
    return {
        split: collect_predictions(
            eval_step,
            job.shutdown.check_each(loader.split_batches(split)),
            loader.classes,
            functools.partial(loader.example_name, split=split),
        )
        for split, count in counts.items()
        if count
    }


def _calibrate(predictions: Predictions) -> tuple[DecisionRule, dict[str, float]]:
    """Returns the rule with the fitted temperature, and its effect for `result.json`."""
    rule = DecisionRule(calibration.fit_temperature(predictions.logits, predictions.labels))
    measured = calibration.measure_reliability(predictions, rule, fitted_on_these=True)
    names = ("temperature", "error_before", "error_after")
    return rule, {name: getattr(measured, name) for name in names}
