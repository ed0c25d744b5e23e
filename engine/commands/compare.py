"""Compares runs with the first of them, each on the images that both have."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from engine.commands.evaluate import compute_metrics
from engine.commands.evaluate_options import EvaluationResult
from engine.commands.shared_options import Log, ignore
from engine.commands.split_predictions import (
    EvaluationData,
    predict_split,
    trained_on,
    warn_of_trained,
)
from engine.evaluation.mcnemar import ModelComparison, compare_models, require_same_classes
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(EvaluationData):
    """Which runs are compared, on which images: by default the split of each run's own data."""

    run_dirs: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run and its comparison with the first run; None for the first itself.

    by_class: by the likeliest classes.
    by_rule: by the saved rules, where one of the two is more than a temperature.
    """

    directory: RunDirectory
    evaluation: EvaluationResult
    by_class: ModelComparison | None = None
    by_rule: ModelComparison | None = None


def compare(options: CompareOptions, log: Log = ignore) -> list[ComparedRun]:
    """Evaluates the runs one by one, and compares each with the first.

    Raises:
      UserError: what `predict_split` and `compare_models` refuse.
    """
    directories = [RunDirectory(Path(path)) for path in options.run_dirs]
    for directory in directories:
        directory.read_recipe()
    threads = tensorflow_setup.start_tensorflow(options.threads, log=log)

    from engine.runs import best_model
    from engine.runs.load_run import load_run
    from pipelines.sources.training_overlap import file_identity

    values = [best_model.load_best_model(run)[1] for run in directories]
    require_same_classes([one["classes"] for one in values])
    split = options.choose_split([one.get("data") or {} for one in values])
    options = dataclasses.replace(options, split=split)
    compared: list[ComparedRun] = []
    names: list[list[str]] = []  # of each run's images, the same for one file by whatever path
    trained: list[set[str]] = []
    for directory in directories:
        run = load_run(directory)
        predictions, source = predict_split(run, options, threads, log)
        examples = source.examples
        names.append([file_identity(examples, index) for index in range(len(examples))])
        mask = trained_on(run, source, options.data)
        trained.append(set(itertools.compress(names[-1], mask)))
        named = dataclasses.replace(predictions, name=names[-1].__getitem__)
        evaluation = compute_metrics(run, named, source, options)
        compared.append(_compare_with_first(directory, evaluation, compared))
    _warn_of_trained(directories, names, trained, log)
    return compared


def _compare_with_first(
    directory: RunDirectory, evaluation: EvaluationResult, earlier: Sequence[ComparedRun]
) -> ComparedRun:
    if not earlier:
        return ComparedRun(directory, evaluation)
    first = earlier[0].evaluation
    pair = (first.predictions, evaluation.predictions)
    called = (str(earlier[0].directory.path), str(directory.path))
    by_class, by_rule = compare_models(*pair, names=called), None
    if first.rule.overrides_argmax or evaluation.rule.overrides_argmax:
        by_rule = compare_models(*pair, first.rule, evaluation.rule)
    return ComparedRun(directory, evaluation, by_class, by_rule)


def _warn_of_trained(
    runs: Sequence[RunDirectory],
    names: Sequence[list[str]],
    trained: Sequence[set[str]],
    log: Log,
) -> None:
    """Warns of runs that were trained on images that they are compared on."""
    common = [set(names[0]).intersection(others) for others in names[1:]]
    compared = [set().union(*common), *common]
    for run, known, images in zip(runs, trained, compared, strict=True):
        warn_of_trained(run, len(known & images), len(images), log)
