"""The images that models are evaluated on, and a model's predictions for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from engine.commands.shared_options import CacheOptions, Log, ProcessOptions, tta_option
from engine.core.options import option
from engine.core.recipe import DataSpec
from engine.evaluation.evaluate import Predictions, collect_predictions
from engine.runs.directory import RunDirectory

if TYPE_CHECKING:
    from engine.runs.load_run import LoadedRun
    from pipelines.loading.batches import SplitLoader

SPLITS = ("train", "validation", "test", "all")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationData(ProcessOptions):
    """The images that models are evaluated on, and how.

    data: other images than the run's own; None for its own.
    tta: `flip` or a number of augmentation views; None for none.
    cache: where an earlier run may have cached decoded images, which are only read.
    """

    data: DataSpec | None = None
    split: str | None = option(
        None,
        "of the data; default: test where the run has one, else validation; all of other data",
        choices=SPLITS,
    )
    tta: str | int | None = tta_option()
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)

    def choose_split(self, identities: Iterable[Mapping[str, str]]) -> str:
        """The split to evaluate.

        Args:
          identities: of the data of each run, see `DataLoader.identity`.
        """
        if self.split or self.data:
            return self.split or "all"
        tested = all(not one.get("test", "0 ").startswith("0 ") for one in identities)
        return "test" if tested else "validation"


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

    split = options.choose_split([run.data])
    recipe = dataclasses.replace(run.recipe, data=options.data or run.recipe.data)
    cache = dataclasses.replace(options.cache, memory=0).location()
    examples, cached = prepare.prepare_evaluation_data(
        recipe, run.classes, split, threads, log, cache
    )
    source = batches.SplitLoader(examples, recipe, threads, cached)
    if options.data is None:
        _warn_of_change(run, split, identity(examples), log)
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
