"""Evaluates a run's best model on a split of data, and changes the decision rule saved with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.commands.shared_options import (
    CacheOptions,
    ProcessOptions,
    price_per_hour_option,
    tta_option,
)
from engine.core.errors import UserError, choose, require
from engine.core.options import REQUIRED, option
from engine.core.recipe import DataSpec
from engine.core.text import program
from engine.evaluation import decision_rule, operating_point
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions, collect_predictions
from engine.evaluation.model_metrics import ModelMetrics, measure_model
from engine.evaluation.operating_point import OperatingPoint
from engine.runs.directory import RunDirectory
from engine.runs.lock import RunLock
from engine.runtime import tensorflow_setup

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun
    from pipelines.loading.batches import SplitLoader

RULE_OPTIONS = ("positive_class", "min_recall", "abstain", "plain")
SPLITS = ("train", "validation", "test", "all")

Log = Callable[[str], None]


def ignore(line: str) -> None:
    """A log that drops every line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData(ProcessOptions):
    """The images that models are evaluated on, and how.

    data: other images than the run's own; None for its own.
    tta: `flip` or a number of augmentation views; None for none.
    cache: where an earlier run may have cached decoded images, which are only read.
    """

    data: DataSpec | None = None
    split: str | None = option(
        None, "of the data; default: validation, or all of other data", choices=SPLITS
    )
    tta: str | int | None = tta_option()
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)

    @property
    def split_name(self) -> str:
        return self.split or ("all" if self.data else "validation")

    @property
    def own_validation(self) -> bool:
        """Whether a run fits its temperature and threshold on these images."""
        return self.data is None and self.split_name == "validation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationData):
    """Which run is evaluated on which data, and how the decision rule saved with it changes first.

    report: see `engine.commands.reporting.write_evaluation_report`.
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
    if options.report:  # before anything is computed or saved
        from engine.report import write

        write.refuse(options.report)
    # A threshold belongs to one model: while it is fitted, no other replaces that one.
    with RunLock(directory) if options.rule_changes else nullcontext():
        threads = tensorflow_setup.start_tensorflow(options.threads, log=log)
        return _evaluate(directory, options, threads, log)


def _evaluate(
    directory: RunDirectory, options: EvaluateOptions, threads: int, log: Log
) -> EvaluationResult:
    from engine.runs.load_run import load_run

    run, positive, fitted = load_run(directory), options.positive_class, None
    if positive is not None:  # before anything is computed
        choose(positive, dict.fromkeys(run.classes), "--positive_class: class")
    predictions, source = predict_split(run, options, threads, log)
    if options.rule_changes:
        validation = predictions
        if positive is not None and not options.own_validation:
            own = dataclasses.replace(options, data=None, split="validation")
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


def predict_split(
    run: LoadedRun, options: EvaluationData, threads: int, log: Log
) -> tuple[Predictions, SplitLoader]:
    """A model's predictions for the images of a split, and the images in the same order.

    Raises:
      UserError: the data does not fit the model, or a prediction is not finite.
    """
    from engine.evaluation.eval_step import make_eval_step
    from engine.inference import tta
    from pipelines.augment import augmentations
    from pipelines.loading import batches, prepare
    from pipelines.sources.examples import identity

    recipe = dataclasses.replace(run.recipe, data=options.data or run.recipe.data)
    cache = dataclasses.replace(options.cache, memory=0).location()
    examples, cached = prepare.prepare_evaluation_data(
        recipe, run.classes, options.split_name, threads, log, cache
    )
    source = batches.SplitLoader(examples, recipe, threads, cached)
    if options.data is None:
        _warn_of_change(run, options.split_name, identity(examples), log)
    data = source.batches()
    if options.tta is None:
        step = make_eval_step(run.model)
    else:
        augmentation = augmentations.compose(recipe.augment)
        views = tta.make_views(options.tta, augmentation, recipe.seed)
        step = tta.make_eval_step(run.model, run.rule.temperature, views)
        data = tta.with_examples(data)
    return collect_predictions(step, data, run.classes, examples.name), source


def _warn_of_change(run: LoadedRun, split: str, identity: str, log: Log) -> None:
    """A new image can move one that was trained on to a validation split that is drawn."""
    trained = run.data.get(split, identity)
    if trained != identity:
        log(
            f"{run.recipe.data.location}: the {split} split has changed since the run: {trained} "
            f"then, {identity} now; images that it was trained on may be among them"
        )


def trained_on(run: LoadedRun, source: SplitLoader, data: DataSpec | None) -> np.ndarray:
    """bool [N]: see `training_overlap.find_trained_on`."""
    from pipelines.sources import training_overlap

    own = run.recipe.data
    return training_overlap.find_trained_on(own, data or own, source.examples)


def warn_of_trained(run: RunDirectory, count: int, total: int, log: Log) -> None:
    if count:
        log(
            f"{run.path} was trained on {count} of the {total} images that it is evaluated on and "
            "knows their labels; name images that it was not trained on, as with --data_dir"
        )


def compute_metrics(
    run: LoadedRun, predictions: Predictions, source: SplitLoader, options: EvaluationData
) -> EvaluationResult:
    measured = measure_model(predictions, run.rule, options.own_validation)
    return EvaluationResult(
        **vars(measured),
        split=options.split_name,
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
    from engine.runs import best_model

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
