"""From a recipe to examples that can be trained on: listed, divided, and each looked at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.specs import Recipe, UserError
from pipelines import first_look, sources
from pipelines.decode import decode
from pipelines.examples import Examples

Say = Callable[[str], None]


def to_train(recipe: Recipe, report: Path, threads: int, say: Say) -> Examples:
    """The recipe's data; what is broken is listed in `report` and left out.

    Raises:
      UserError: what `sources.load` and `first_look.leave_out` find.
    """
    examples = sources.load(recipe.data)
    broken = _look(examples, recipe, threads, say)
    if broken:
        say(f"{len(broken)} broken pictures are left out; {report} lists them")
    return first_look.leave_out(examples, broken, report, recipe.data.on_bad_image)


def to_measure(
    recipe: Recipe, classes: tuple[str, ...], part: str, threads: int, say: Say
) -> Examples:
    """One part of the recipe's data, or `all` of it, labelled as a model with these classes does.

    Raises:
      UserError: the data has a class that the model does not know, or nothing is left to measure.
    """
    examples = _relabelled(sources.load(recipe.data), classes)
    examples = examples if part == "all" else examples.part(part)
    broken = _look(examples, recipe, threads, say)
    for one in broken:
        say(f"left out: {one.path}: {one.reason}")
    if broken and recipe.data.on_bad_image == "fail":
        raise UserError(f"{len(broken)} pictures can't be used; mend or remove them")
    rest = examples.without(np.array([one.index for one in broken], dtype=np.int64))
    if not len(rest):
        raise UserError(f"--part={part}: the data has no such examples; give another --part")
    return rest


def _look(examples: Examples, recipe: Recipe, threads: int, say: Say) -> list[first_look.Broken]:
    if len(examples) > 50_000:
        say(f"looking at {len(examples):,} pictures first, so that no broken one ends the training")
    size, resize = recipe.image_size, recipe.resize
    return first_look.look(examples, lambda contents: decode(contents, *size, resize), threads)


def _relabelled(examples: Examples, classes: tuple[str, ...]) -> Examples:
    unknown = [name for name in examples.classes if name not in classes]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} of the data is unknown to the model, which knows "
            f"{', '.join(classes)}; rename or remove that class"
        )
    places = np.array([classes.index(name) for name in examples.classes], np.int32)
    return examples.replace(labels=places[examples.labels], classes=classes)
