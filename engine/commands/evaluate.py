"""Evaluates a run's best model on a split of data, and changes the decision rule saved with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.evaluate_options import EvaluateOptions, EvaluationResult
from engine.commands.shared_options import Log, ignore
from engine.commands.split_predictions import (
    EvaluationData,
    predict_split,
    trained_on,
    warn_of_trained,
)
from engine.core.errors import UserError, choose
from engine.core.text import program
from engine.evaluation import decision_rule, operating_point
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.model_metrics import measure_model
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun
    from pipelines.loading.batches import SplitLoader


def evaluate(
    options: EvaluateOptions,
    log: Log = ignore,
    show: Callable[[EvaluationResult], Any] = lambda result: None,
) -> EvaluationResult:
    """Evaluates a run's best model, after changing its decision rule where options say so.

    Args:
      show: receives the result before the report is written, which may fail.

    Raises:
      UserError: there is no such run, it is at work while its rule is to be changed, the data does
        not fit the model, the rule does not fit the data, or the report can't be written.
    """
    directory = RunDirectory(Path(options.run_dir))
    directory.read_recipe()  # refuses what is no run, before the lock creates the directory
    if options.positive_class is not None:
        classes = best_model.load_best_model(directory)[1]["classes"]
        choose(options.positive_class, dict.fromkeys(classes), "--positive_class: class")
    if options.report:  # before anything is computed or saved
        from engine.report import write

        write.refuse(Path(options.report))
    # A threshold belongs to one model: while it is fitted, no other replaces that one.
    with RunLock(directory) if options.rule_changes else nullcontext():
        threads = tensorflow_setup.start_tensorflow(options.threads, log=log)
        result = _evaluate(directory, options, threads, log)
    show(result)
    if options.report:
        from engine.commands import reporting

        log(f"report: {reporting.write_evaluation_report(result, options, log)}")
    return result


def _evaluate(
    directory: RunDirectory, options: EvaluateOptions, threads: int, log: Log
) -> EvaluationResult:
    from engine.runs.load_run import load_run

    run, positive, fitted = load_run(directory), options.positive_class, None
    options = dataclasses.replace(options, split=options.choose_split([run.data]))
    predictions, source = predict_split(run, options, threads, log)
    if options.rule_changes:
        validation = predictions
        own = dataclasses.replace(options, data=None, split="validation")
        if positive is not None and options != own:
            validation, _ = predict_split(run, own, threads, log)
        rule = change_rule(run.rule, options, validation)
        if positive is not None:
            fitted = operating_point.operating_point_of_rule(validation, rule)
        _save_rule(directory, rule, log)
        run = dataclasses.replace(run, rule=rule)
    count = 0
    if options.data is not None:
        count = int(trained_on(run, source, options.data).sum())
        warn_of_trained(directory, count, len(predictions), log)
    result = compute_metrics(run, predictions, source, options)
    return dataclasses.replace(result, fitted=fitted, trained_on=count)


def compute_metrics(
    run: LoadedRun, predictions: Predictions, source: SplitLoader, options: EvaluationData
) -> EvaluationResult:
    """options: with the split that was chosen."""
    split = options.split or "all"
    fitted_on_these = options.data is None and split == "validation"
    measured = measure_model(predictions, run.rule, fitted_on_these)
    return EvaluationResult(
        **vars(measured),
        split=split,
        run=run,
        predictions=predictions,
        source=source,
    )


def change_rule(
    rule: DecisionRule, change: EvaluateOptions, validation: Predictions
) -> DecisionRule:
    """The changed rule; a threshold is fitted on these predictions.

    Raises:
      UserError: none of the images is of the positive class.
    """
    if change.plain:
        return DecisionRule(rule.temperature)
    if change.abstain is not None:
        rule = dataclasses.replace(rule, abstain=change.abstain or None)
    name, min_recall = change.positive_class, change.min_recall
    if name is None or min_recall is None:
        return rule
    probabilities = decision_rule.probabilities(rule, validation.logits)
    positive = validation.classes.index(name)
    threshold = operating_point.fit_threshold(
        probabilities, validation.labels, positive, min_recall
    )
    return dataclasses.replace(
        rule, positive_class=name, threshold=threshold, min_recall=min_recall
    )


def _save_rule(run: RunDirectory, rule: DecisionRule, log: Log) -> None:
    """
    Raises:
      UserError: the rule can't be written.
    """
    try:
        best_model.save_decision_rule(run, rule)
    except OSError as error:
        raise UserError(
            f"{run.best}: the rule can't be saved there ({error.strerror}); "
            "make room, or get the right to write there"
        ) from None
    log(f"saved with the model, {run.best}: {program('predict')} decides by it from now on")
    if not run.finished():
        log("the run is not finished: resuming it removes the rule again")
