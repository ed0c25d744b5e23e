"""Runs side by side on the same images, for bin/evaluate --compare."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

from engine.commands.format_metrics import between
from engine.commands.measure import (
    EvaluatedModel,
    EvaluationRequest,
    answer,
    measured,
    trained_on,
    warn_of_trained,
)
from engine.core.text import printable
from engine.evaluation.mcnemar import ModelComparison, compare_models, require_same_classes
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.load import load_run
from pipelines.sources.overlap import file_identity


@dataclasses.dataclass(frozen=True)
class Row:
    """A run, and how it stands against the first one; None for the first.

    versus: by the likeliest classes. decided: by the rules, where one of the two has more than a
    temperature.
    """

    run: RunDirectory
    found: EvaluatedModel
    versus: ModelComparison | None
    decided: ModelComparison | None


def rows(runs: Sequence[RunDirectory], what: EvaluationRequest) -> list[Row]:
    """Measures the runs one by one, and compares each with the first.

    Raises:
      UserError: see `answer` and `comparing.compare`.
    """
    require_same_classes([best_model.load_best_model(run)[1]["classes"] for run in runs])
    made: list[Row] = []
    seen: list[list[str]] = []
    known: list[set[str]] = []
    for run in runs:
        opened = load_run(run)
        answers, source = answer(opened, what)
        examples = source.examples
        seen.append([file_identity(examples, index) for index in range(len(examples))])
        known.append(set(itertools.compress(seen[-1], trained_on(opened, source, what))))
        named = dataclasses.replace(answers, name=seen[-1].__getitem__)
        found = measured(opened, named, source, what)
        made.append(_row(run, found, made[0] if made else None))
    _warn(runs, seen, known)
    return made


def _row(run: RunDirectory, found: EvaluatedModel, first: Row | None) -> Row:
    if first is None:
        return Row(run, found, None, None)
    answers, rule = first.found.answers, first.found.rule
    called = (str(first.run.path), str(run.path))
    versus = compare_models(answers, found.answers, names=called)
    plain = not (rule.overrides_argmax or found.rule.overrides_argmax)
    decided = None if plain else compare_models(answers, found.answers, rule, found.rule)
    return Row(run, found, versus, decided)


def _warn(
    runs: Sequence[RunDirectory], seen: Sequence[list[str]], known: Sequence[set[str]]
) -> None:
    """Says where a run was trained on images, those `known`, that it is compared on."""
    common = [set(seen[0]).intersection(names) for names in seen[1:]]
    for run, mine, compared in zip(runs, known, [set().union(*common), *common], strict=True):
        warn_of_trained(run, len(mine & compared), len(compared))


def print_json(made: Sequence[Row]) -> None:
    print(json.dumps([_as_dict(row) for row in made], indent=2, ensure_ascii=False))


def _as_dict(row: Row) -> dict[str, Any]:
    figures = row.found.figures
    return {
        "run_dir": str(row.run.path),
        "count": figures.count,
        "accuracy": figures.accuracy,
        "accuracy_interval": figures.accuracy_interval,
        "macro_f1": figures.macro_f1,
        "macro_f1_interval": figures.macro_f1_interval,
        "loss": figures.loss,
        "calibration_error": row.found.calibrated.error_after,
        "against_first": row.versus and dataclasses.asdict(row.versus),
        "against_first_by_rule": row.decided and dataclasses.asdict(row.decided),
    }


def print_table(made: Sequence[Row]) -> None:
    names = [printable(str(row.run.path)) for row in made]
    width = max(map(len, (*names, "run")))
    spread = max(len(between(row.found.figures.accuracy_interval)) for row in made) + 2
    print(f"{'run':{width}}  images  accuracy  {'':{spread}}  macro f1    loss  calibration error")
    for name, row in zip(names, made, strict=True):
        figures = row.found.figures
        interval = f"({between(figures.accuracy_interval)})"
        print(
            f"{name:{width}}  {figures.count:8}  {figures.accuracy:8.2%}  {interval:{spread}}  "
            f"{figures.macro_f1:8.2%}  {figures.loss:.4f}  {row.found.calibrated.error_after:.2%}"
        )
    for name, row in zip(names[1:], made[1:], strict=True):
        print(f"\n{name} against {names[0]}")
        for how, found in (("likeliest class", row.versus), ("saved rules", row.decided)):
            if found:
                print(f"  by the {how}: {_in_words(found)}")


def _in_words(found: ModelComparison) -> str:
    return (
        f"of {found.common} images that both have, {found.right_b} right against "
        f"{found.right_a}; {found.only_b} only by this one, {found.only_a} only by the other; "
        f"p = {found.p_value:.2g} (McNemar's exact test)"
    )
