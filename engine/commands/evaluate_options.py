"""Which evaluation is asked for, and what it returns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.shared_options import price_per_hour_option
from engine.commands.split_predictions import EvaluationData
from engine.core.errors import UserError, require
from engine.core.options import REQUIRED, option
from engine.evaluation.evaluate import Predictions
from engine.evaluation.model_metrics import ModelMetrics
from engine.evaluation.operating_point import OperatingPoint

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun
    from pipelines.loading.batches import SplitLoader

RULE_OPTIONS = ("positive_class", "min_recall", "abstain", "plain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationData):
    """Which run is evaluated on which data, and how the decision rule saved with it changes first.

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
