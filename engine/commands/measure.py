"""What bin/evaluate measures: a run's model on a part of data, and the rule it is read by."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from engine.cli import flags
from engine.cli.rule_flags import Changes
from engine.commands import tta as tta_module
from engine.core.errors import UserError, choose
from engine.core.recipe import DataSpec
from engine.evaluation import (
    classification_metrics,
    decision_rule,
    evaluate,
    operating_point,
    reliability,
)
from engine.evaluation.classification_metrics import ClassificationMetrics
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.operating_point import AbstentionMetrics, OperatingPoint
from engine.evaluation.reliability import Reliability
from engine.runs import best_model, load
from engine.runs.directory import RunDirectory
from engine.runs.load import LoadedRun
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.sources import overlap
from pipelines.sources.examples import identity


def complain(line: str) -> None:
    print(line, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class EvaluationRequest:
    """What the flags say of the images. other: the data that they name, None for each run's own.

    place: where an earlier run may have kept the pixels; read once. tta: see `_tta`.
    """

    other: DataSpec | None
    part: str
    threads: int
    place: CacheLocation
    tta: str | int | None = None

    @property
    def own_validation(self) -> bool:
        """Whether these are the images that a run fits its temperature and thresholds on."""
        return self.other is None and self.part == "validation"


def asked(parsed: flags.Parsed, other: DataSpec | None, threads: int) -> EvaluationRequest:
    part = parsed.part or ("all" if other else "validation")
    place = flags.cache_options(parsed, memory=0).location()
    return EvaluationRequest(other, part, threads, place, parsed.tta)


def answer(opened: LoadedRun, what: EvaluationRequest) -> tuple[Predictions, batches.SplitLoader]:
    """What the model says of the images, and these, in the same order.

    Raises:
      UserError: the data does not fit the model, or the model gives no numbers.
    """
    recipe = dataclasses.replace(opened.recipe, data=what.other or opened.recipe.data)
    examples, kept = prepare.prepare_evaluation_data(
        recipe, opened.classes, what.part, what.threads, complain, what.place
    )
    source = batches.SplitLoader(examples, recipe, what.threads, kept)
    if what.other is None:
        _warn_of_change(opened, what.part, identity(examples))
    step, data = tta_module.measuring(what.tta, opened, source.batches())
    found = evaluate.collect_predictions(step, data, opened.classes, examples.name)
    return found, source


def _warn_of_change(opened: LoadedRun, part: str, now: str) -> None:
    """Where a validation part is taken from the others, a new image can move an old one there."""
    then = opened.data.get(part, now)
    if then != now:
        complain(
            f"{opened.recipe.data.location}: the {part} part has changed since the run: {then} "
            f"then, {now} now; images that it was trained on may be among them"
        )


def measure(run: RunDirectory, what: EvaluationRequest, changes: Changes | None) -> EvaluatedModel:
    """The run on the images; its rule is first changed as asked, and saved.

    The caller holds the run's lock where there are changes: no other model takes its place then.

    Raises:
      UserError: see `answer` and `keep`; a class that the model does not know.
    """
    opened = load.load_run(run)
    rule, fitted = opened.rule, None
    if changes and changes.positive_class is not None:  # before anything is measured
        known = dict.fromkeys(opened.classes)
        choose(changes.positive_class, known, "--positive_class: class")
    found, source = answer(opened, what)
    if changes:
        validation = found
        if changes.positive_class is not None and not what.own_validation:
            validation, _ = answer(opened, dataclasses.replace(what, other=None, part="validation"))
        rule = revised(rule, changes, validation)
        if changes.positive_class is not None:
            fitted = operating_point.operating_point_of_rule(validation, rule)
        keep(run, rule)
    opened = dataclasses.replace(opened, rule=rule)
    shown = measured(opened, found, source, what, fitted)
    if what.other is None:
        return shown
    count = int(trained_on(opened, source, what).sum())
    warn_of_trained(run, count, len(found))
    return dataclasses.replace(shown, trained_on=count)


def trained_on(
    opened: LoadedRun, source: batches.SplitLoader, what: EvaluationRequest
) -> np.ndarray:
    """bool [N]: see `overlap.trained_on`."""
    own = opened.recipe.data
    return overlap.find_trained_on(own, what.other or own, source.examples)


def warn_of_trained(run: RunDirectory, count: int, of: int) -> None:
    if count:
        complain(
            f"{run.path} was trained on {count} of the {of} images that it is measured on, whose "
            "answers it knows; name some that it has not seen, as with --data_dir"
        )


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """All that is shown of a run on one part.

    source: the images. trained_on: how many of them the model was trained on, where they are
      other data than its own. decided: how right the rule's answers are, less those that it leaves
      uncertain; None where they are always the likeliest classes. fitted: what a threshold that
      has just been fitted does on the validation part.
    """

    part: str
    opened: LoadedRun
    answers: Predictions
    source: batches.SplitLoader
    figures: ClassificationMetrics
    calibrated: Reliability
    operating: OperatingPoint | None
    decided: AbstentionMetrics | None
    fitted: OperatingPoint | None = None
    trained_on: int = 0

    @property
    def rule(self) -> DecisionRule:
        return self.opened.rule

    @property
    def abstaining(self) -> AbstentionMetrics | None:
        return None if self.rule.abstain is None else self.decided


def measured(
    opened: LoadedRun,
    answers: Predictions,
    source: batches.SplitLoader,
    what: EvaluationRequest,
    fitted: OperatingPoint | None = None,
) -> EvaluatedModel:
    rule = opened.rule
    return EvaluatedModel(
        part=what.part,
        opened=opened,
        answers=answers,
        source=source,
        figures=classification_metrics.classification_metrics(answers, rule),
        calibrated=reliability.measure_reliability(answers, rule, what.own_validation),
        operating=operating_point.operating_point_of_rule(answers, rule),
        decided=operating_point.decisions_of_rule(answers, rule),
        fitted=fitted,
    )


def revised(rule: DecisionRule, changes: Changes, validation: Predictions) -> DecisionRule:
    """The rule as it is wanted; a threshold is fitted on these answers.

    Raises:
      UserError: none of the images is of the positive class.
    """
    if changes.plain:
        return DecisionRule(rule.temperature)
    if changes.abstain is not None:
        rule = dataclasses.replace(rule, abstain=changes.abstain or None)
    name, least = changes.positive_class, changes.min_recall
    if name is None or least is None:
        return rule
    chances = decision_rule.probabilities(rule, validation.logits)
    positive = validation.classes.index(name)
    threshold = operating_point.fit_threshold(chances, validation.labels, positive, least)
    return dataclasses.replace(rule, positive_class=name, threshold=threshold, min_recall=least)


def keep(run: RunDirectory, rule: DecisionRule) -> None:
    """Saves the rule with the model, and says so.

    Raises:
      UserError: it can't be written.
    """
    try:
        best_model.save_decision_rule(run, rule)
    except OSError as error:
        raise UserError(
            f"{run.best}: the rule can't be saved there ({error.strerror}); "
            "make room, or get the right to write there"
        ) from None
    complain(f"saved with the model, {run.best}: bin/predict answers so from now on")
    if not run.finished():
        complain("the run is not finished: where it is gone on with, it takes this off again")
