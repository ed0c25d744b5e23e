"""What bin/evaluate measures: a run's model on a part of data, and the rule it is read by."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from engine.cli import flags, main
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
from engine.evaluation.classification_metrics import Figures
from engine.evaluation.decision_rule import Rule
from engine.evaluation.evaluate import Answers
from engine.evaluation.operating_point import Abstaining, Operating
from engine.evaluation.reliability import Calibrated
from engine.runs.directory import RunDir
from engine.training import epoch_record, setup
from engine.training.setup import Reopened
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.pixels import Place
from pipelines.sources import overlap
from pipelines.sources.examples import identity


def complain(line: str) -> None:
    print(line, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags say of the pictures. other: the data that they name, None for each run's own.

    place: where an earlier run may have kept the pixels; read once. tta: see `_tta`.
    """

    other: DataSpec | None
    part: str
    threads: int
    place: Place
    tta: str | int | None = None

    @property
    def own_validation(self) -> bool:
        """Whether these are the pictures that a run fits its temperature and thresholds on."""
        return self.other is None and self.part == "validation"


def asked(parsed: flags.Parsed, other: DataSpec | None, threads: int) -> Asked:
    part = parsed.part or ("all" if other else "validation")
    place = Place(main.cache_dir(parsed), memory=0)
    return Asked(other, part, threads, place, parsed.tta)


def answer(opened: Reopened, what: Asked) -> tuple[Answers, batches.Part]:
    """What the model says of the pictures, and these, in the same order.

    Raises:
      UserError: the data does not fit the model, or the model gives no numbers.
    """
    recipe = dataclasses.replace(opened.recipe, data=what.other or opened.recipe.data)
    examples, kept = prepare.to_measure(
        recipe, opened.classes, what.part, what.threads, complain, what.place
    )
    source = batches.Part(examples, recipe, what.threads, kept)
    if what.other is None:
        _warn_of_change(opened, what.part, identity(examples))
    step, data = tta_module.measuring(what.tta, opened, batches.once(source))
    found = evaluate.collect(step, data, opened.classes, examples.name)
    return found, source


def _warn_of_change(opened: Reopened, part: str, now: str) -> None:
    """Where a validation part is taken from the others, a new picture can move an old one there."""
    then = opened.data.get(part, now)
    if then != now:
        complain(
            f"{opened.recipe.data.location}: the {part} part has changed since the run: {then} "
            f"then, {now} now; pictures that it was trained on may be among them"
        )


def measure(run: RunDir, what: Asked, changes: Changes | None) -> Measured:
    """The run on the pictures; its rule is first changed as asked, and saved.

    The caller holds the run's lock where there are changes: no other model takes its place then.

    Raises:
      UserError: see `answer` and `keep`; a class that the model does not know.
    """
    opened = setup.reopen(run)
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
            fitted = operating_point.at_threshold(validation, rule)
        keep(run, rule)
    opened = dataclasses.replace(opened, rule=rule)
    shown = measured(opened, found, source, what, fitted)
    if what.other is None:
        return shown
    count = int(trained_on(opened, source, what).sum())
    warn_of_trained(run, count, len(found))
    return dataclasses.replace(shown, trained_on=count)


def trained_on(opened: Reopened, source: batches.Part, what: Asked) -> np.ndarray:
    """bool [N]: see `overlap.trained_on`."""
    own = opened.recipe.data
    return overlap.trained_on(own, what.other or own, source.examples)


def warn_of_trained(run: RunDir, count: int, of: int) -> None:
    if count:
        complain(
            f"{run.path} was trained on {count} of the {of} pictures that it is measured on, whose "
            "answers it knows; name some that it has not seen, as with --data_dir"
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that is shown of a run on one part.

    source: the pictures. trained_on: how many of them the model was trained on, where they are
      other data than its own. decided: how right the rule's answers are, less those that it leaves
      uncertain; None where they are always the likeliest classes. fitted: what a threshold that
      has just been fitted does on the validation part.
    """

    part: str
    opened: Reopened
    answers: Answers
    source: batches.Part
    figures: Figures
    calibrated: Calibrated
    operating: Operating | None
    decided: Abstaining | None
    fitted: Operating | None = None
    trained_on: int = 0

    @property
    def rule(self) -> Rule:
        return self.opened.rule

    @property
    def abstaining(self) -> Abstaining | None:
        return None if self.rule.abstain is None else self.decided


def measured(
    opened: Reopened,
    answers: Answers,
    source: batches.Part,
    what: Asked,
    fitted: Operating | None = None,
) -> Measured:
    rule = opened.rule
    return Measured(
        part=what.part,
        opened=opened,
        answers=answers,
        source=source,
        figures=classification_metrics.figures(answers, rule),
        calibrated=reliability.calibrated(answers, rule, what.own_validation),
        operating=operating_point.at_threshold(answers, rule),
        decided=operating_point.decided(answers, rule),
        fitted=fitted,
    )


def revised(rule: Rule, changes: Changes, validation: Answers) -> Rule:
    """The rule as it is wanted; a threshold is fitted on these answers.

    Raises:
      UserError: none of the pictures is of the positive class.
    """
    if changes.plain:
        return Rule(rule.temperature)
    if changes.abstain is not None:
        rule = dataclasses.replace(rule, abstain=changes.abstain or None)
    name, least = changes.positive_class, changes.min_recall
    if name is None or least is None:
        return rule
    chances = decision_rule.probabilities(rule, validation.logits)
    positive = validation.classes.index(name)
    threshold = operating_point.fit_threshold(chances, validation.labels, positive, least)
    return dataclasses.replace(rule, positive_class=name, threshold=threshold, min_recall=least)


def keep(run: RunDir, rule: Rule) -> None:
    """Saves the rule with the model, and says so.

    Raises:
      UserError: it can't be written.
    """
    try:
        epoch_record.keep_rule(run, rule)
    except OSError as error:
        raise UserError(
            f"{run.best}: the rule can't be saved there ({error.strerror}); "
            "make room, or get the right to write there"
        ) from None
    complain(f"saved with the model, {run.best}: bin/predict answers so from now on")
    if not run.finished():
        complain("the run is not finished: where it is gone on with, it takes this off again")
