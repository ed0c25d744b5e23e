"""Evaluates a run's best model on a split of data, and changes the decision rule saved with it."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.shared_options import Log, ignore, price_per_hour_option
from engine.commands.split_predictions import (
    EvaluationData,
    predict_split,
    trained_on,
    warn_of_trained,
)
from engine.core.errors import UserError, choose, require
from engine.core.options import REQUIRED, option
from engine.core.text import program
from engine.evaluation import decision_rule, operating_point
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.model_metrics import ModelMetrics, measure_model
from engine.evaluation.operating_point import OperatingPoint
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun
    from pipelines.loading.batches import SplitLoader

RULE_OPTIONS = ("positive_class", "min_recall", "abstain", "plain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationData):
    """Which run is evaluated on which data, and how the decision rule saved with it changes first.

    report: written by `engine.commands.evaluate_with_report`.
    command: the command that the report names.
    """

    run_dir: Path = option(REQUIRED, "the run whose best model is evaluated")
    report: Path | None = option(None, "folder for report.html and report.json")
    price_per_hour: float | None = price_per_hour_option()
    command: str = "unfreeze.evaluate(...)"
    positive_class: str | None = option(
        None,
        "the class that must not be missed: fits on the run's own validation split the threshold "
        "that reaches a recall of --min_recall with the fewest false alarms, and saves it with the "
        "model",
    )
    min_recall: float | None = option(None, "the recall of --positive_class", above=0, maximum=1)
    abstain: float | None = option(
        None,
        "predictions are uncertain where no class has this probability; 0 for never; saved with "
        "the model",
        minimum=0,
        maximum=1,
    )
    plain: bool = option(
        False,
        "remove what --positive_class and --abstain saved, so that the likeliest class is "
        "predicted; the temperature stays",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        changes = self.rule_changes
        if self.plain and len(changes) > 1:
            raise UserError(f"--plain and --{changes[0]}; allowed: one of them")
        if changes and self.tta:
            raise UserError(
                f"--tta={self.tta} and --{changes[0]}: a saved rule is for predictions of the "
                "image as it is; omit one of them"
            )
        require(
            (self.positive_class is None) == (self.min_recall is None),
            "--positive_class and --min_recall go together, as --positive_class=defective "
            "--min_recall=0.95; give both or neither",
        )
        require(
            self.price_per_hour is None or self.report is not None,
            "--price_per_hour has no use without --report; give --report=DIR, or omit it",
        )

    @property
    def rule_changes(self) -> list[str]:
        """The names of the options that change the rule."""
        values = {name: getattr(self, name) for name in RULE_OPTIONS}
        return [name for name, value in values.items() if value is not None and value is not False]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult(ModelMetrics):
    """A run's model on one split.

    run: the loaded run, its rule as it is now.
    source: the images, in the order of the predictions.
    fitted: what a threshold that was just fitted does on the validation split.
    trained_on: how many of the images the model was trained on, where they are not the run's own.
    """

    split: str
    run: LoadedRun
    predictions: Predictions
    source: SplitLoader
    fitted: OperatingPoint | None = None
    trained_on: int = 0


def evaluate(options: EvaluateOptions, log: Log = ignore) -> EvaluationResult:
    """Evaluates a run's best model, after changing its decision rule where options say so.

    Raises:
      UserError: there is no such run, it is at work while its rule is to be changed, the data does
        not fit the model, or the rule does not fit the data.
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
        return _evaluate(directory, options, threads, log)


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
