"""What comes of a run: its best model measured, and how that model's answers are to be read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from engine.core.errors import UserError
from engine.evaluation import calibration, decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions, collect_predictions
from engine.runs import checkpoints
from engine.runs.best_model import BestModel, model_score
from engine.runs.checkpoints import TrainState
from engine.runtime.hardware import describe_machine, describe_software, peak_memory
from engine.training.state import RunClock, TrainJob


@dataclasses.dataclass(frozen=True)
class FinalEvaluation:
    """What came of a run: `result.json`, and the saved model's answers by part."""

    result: dict[str, Any]
    answers: dict[str, Predictions]


def evaluate_final_model(
    job: TrainJob, progress: TrainState, eval_step: Callable, clock: RunClock, best: BestModel
) -> FinalEvaluation:
    """Puts the best weights into the model, measures it and fits its temperature.

    The model is measured as it is saved, in float32: on the validation part once more, since the
    epochs were measured with the frozen part in its fastest precision, and on the test part.
    """
    if not progress.history:
        raise UserError("no phase has an epoch to train; give a phase epochs=1 or more")
    checkpoints.restore(job.classifier.model.weights, best.weights or [], str(job.run.best))
    result: dict[str, Any] = {
        "status": "finished",
        "classes": list(job.loader.classes),
        "best": progress.best,
        "final": model_score(progress.history[-1]),
    }
    answers = _answers(job, eval_step)
    for part, found in answers.items():
        figures = found.evaluation()
        result[part] = {
            "accuracy": figures.accuracy,
            "loss": figures.loss,
            "count": figures.count,
        }
    if "validation" in answers:
        rule, result["calibration"] = _calibrate(answers["validation"])
        best.set_rule(rule)
    clock.record_save(progress)
    result |= {
        "phases": progress.phases,
        "spent": progress.spent,
        "seconds_to_first_step": clock.first_step,
        "seconds_total": progress.total_seconds,
        "peak_memory_bytes": peak_memory(),
        "software": describe_software(),
        "machine": describe_machine(),
    }
    return FinalEvaluation(result, answers)


def _answers(job: TrainJob, eval_step: Callable) -> dict[str, Predictions]:
    loader = job.loader
    counts = {"validation": loader.validation_examples, "test": loader.test_examples}
    return {
        part: collect_predictions(
            eval_step,
            job.stop.checked(loader.split_batches(part)),
            loader.classes,
            functools.partial(loader.example_name, split=part),
        )
        for part, count in counts.items()
        if count
    }


def _calibrate(answers: Predictions) -> tuple[DecisionRule, dict[str, float]]:
    """The rule with the temperature of these answers, and what it does, for `result.json`."""
    logits, labels = answers.logits, answers.labels
    rule = DecisionRule(calibration.fit_temperature(logits, labels))
    before = calibration.expected_calibration_error(
        decision_rule.probabilities(decision_rule.DEFAULT_RULE, logits), labels
    )
    after = calibration.expected_calibration_error(
        calibration.cross_fit_probabilities(logits, labels), labels
    )
    return rule, {
        "temperature": rule.temperature,
        "error_before": before,
        "error_after": after,
    }
